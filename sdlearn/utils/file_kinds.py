"""What a file really is, told from its first bytes.

A file in the place of weights or of a configuration is often something else: the pointer that Git
LFS leaves where a file was not fetched, a login page, or an interrupted download. Each
function returns the end of a sentence that begins with the file's path: what the file is, and what
to do about it.
"""

import zipfile
from pathlib import Path

from sdlearn.utils.validation import shown

HEAD = 4096  # bytes that are read
ARCHIVE = b"PK\x03\x04"  # how a zip archive begins, and so a pickle of torch since version 1.6
EMPTY_ARCHIVE = b"PK\x05\x06"
LONGEST_HEADER = 100_000_000  # bytes of a safetensors header, the limit of its library
AGAIN = "download the file itself again"
POINTER = "which stands for a file that was not fetched; run `git lfs pull`, or " + AGAIN
DAMAGED_ARCHIVE = f"an incomplete or damaged archive; {AGAIN}"
# As macOS does, which adds __MACOSX/ and .DS_Store. torch reads no such archive.
REPACKED = (
    "an archive that another program has packed again: {} is not in the one folder in which torch "
    f"puts everything, with data.pkl; {AGAIN}, or use a .safetensors file of the same model"
)
UNPACK = "; unpack it and give the file inside"
CONVERT = "; give a .safetensors file of the same model"

# The first bytes -> what the file is.
SIGNATURES = {
    b"version https://git-lfs.github.com/spec/": f"a Git LFS pointer, {POINTER}",
    b"# xet version": f"a pointer of the Hugging Face hub's storage, {POINTER}",
    b"/annex/objects/": f"a git-annex pointer, {POINTER}",
    b"GGUF": "a GGUF file, whose weights are quantised for other programs" + CONVERT,
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras and TensorFlow write it" + CONVERT,
    b"\x93NUMPY": "a NumPy array" + CONVERT,
    b"\x89PNG\r\n": "an image (PNG), not a model",
    b"\xff\xd8\xff": "an image (JPEG), not a model",
    b"GIF8": "an image (GIF), not a model",
    b"RIFF": "an image, sound or film (RIFF), not a model",
    b"%PDF": "a PDF document, not a model",
    b"\x1f\x8b": "a gzip archive" + UNPACK,
    b"BZh": "a bzip2 archive" + UNPACK,
    b"\xfd7zXZ": "an xz archive" + UNPACK,
    b"\x28\xb5\x2f\xfd": "a Zstandard archive" + UNPACK,
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive" + UNPACK,
    b"Rar!": "a RAR archive" + UNPACK,
    b"\x7fELF": "a program, not a model",
    b"MZ": "a program, not a model",
}
# The endings of files that other programs read, and of downloads that have not come to their end.
OTHER_FORMATS = {
    ".msgpack": "a Flax file" + CONVERT,
    ".onnx": "an ONNX file" + CONVERT,
    ".onnx_data": "a part of an ONNX file" + CONVERT,
    ".h5": "a Keras or TensorFlow file" + CONVERT,
    ".pb": "a TensorFlow file" + CONVERT,
    ".tflite": "a TensorFlow Lite file" + CONVERT,
    ".gguf": "a GGUF file" + CONVERT,
    ".mlmodel": "a Core ML file" + CONVERT,
}
UNFINISHED = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp")


def describe_content(path: Path) -> str | None:
    """What a file is, if it does not belong in a model's folder; else None.

    Text, which may be right for some files and wrong for others, is left to `describe_text`.

    Args:
        path: A file.

    Returns:
        A phrase such as "an empty file; download it again", for a message that begins with the
        path and "is"; its length is bounded.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if is_safetensors(head):  # whose first bytes, a length, may be anything
        return None
    if not head:
        return f"an empty file; {AGAIN}"
    if not head.strip(b"\0"):
        return f"a file that begins with {len(head)} zeros, as interrupted downloads do; {AGAIN}"
    for signature, kind in SIGNATURES.items():
        if head.startswith(signature):
            return kind
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        return f"a web page (HTML), such as that of a login or an error; {AGAIN}"
    if start.startswith((b"<?xml", b"<error")):
        return f"an XML document, such as the error message of a server; {AGAIN}"
    if head.startswith((ARCHIVE, EMPTY_ARCHIVE)):
        return describe_archive(path)
    if head[257:262] == b"ustar":
        return "a tar archive" + UNPACK
    ending = path.suffix.lower()
    if ending in UNFINISHED:
        return f"an unfinished download ({ending}); let it finish, or {AGAIN}"
    return OTHER_FORMATS.get(ending)


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins like safetensors: the length of a header and its opening brace."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def describe_archive(path: Path) -> str | None:
    """What a zip archive is, if it is not a pickle as torch writes it; else None."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises many kinds for damaged bytes
        return DAMAGED_ARCHIVE
    entries = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in entries:
        return "a TorchScript archive, which holds a program" + CONVERT
    pickles = [n for n in names if n.split("/")[-1] == "data.pkl" and not n.startswith("__MACOSX/")]
    if pickles:
        folder = f"{pickles[0].split('/')[0]}/" if pickles[0].count("/") == 1 else "no folder"
        outside = next((name for name in names if not name.startswith(folder)), None)
        return outside and REPACKED.format(shown(outside))
    first = f", among them {shown(names[0])}" if names else ""
    return f"a zip archive of other files{first}{UNPACK}"


def describe_text(path: Path) -> str | None:
    """What a text file is, where no text belongs; None if it is not text."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    text = head.decode("utf-8", "replace").strip()
    if "\0" in text or text[:200].count("\ufffd") > 2 or not text:
        return None
    if text.startswith(("{", "[")):
        return f"a JSON document, such as the error message of a server or a configuration; {AGAIN}"
    return f"a text file that begins with {shown(text[:100])}; {AGAIN}"
