"""Files in the place of weights: read as what they are, whatever their name, or called what they
are."""

import gzip
import io
import json
import os
import shutil
import sys
import tarfile
import zipfile

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdlearn import weights
from sdlearn.cli.main import main
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.file_kinds import describe_content
from sdlearn.utils.resources import data_folder
from sdlearn.weights.tensor_files import open_weights
from sdlearn.weights.tokenizer_files import read_tokenizer

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {"a": torch.randn(3, 4), "b": torch.randn(5).half(), "c": torch.tensor(2.0)}


def load(source):
    return StableDiffusion.from_pretrained(source, device="cpu")


def check(path, tensors):
    found = open_weights(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key].read(), tensors[key]) for key in tensors)


# -------------------------------------------------------------------------------- read as they are


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors", "model.SAFETENSORS", "model.sft", "model.ckpt", "model.CKPT",
        "model.bin", "model.pt", "model.PTH", "model", "5ede9e4bf3e3fd1c", "model.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["safetensors", "archive", "before torch 1.6"])
def test_a_file_is_read_as_what_it_is(tmp_path, tensors, name, kind):
    """Also a pickle that was renamed to .safetensors, which goes the safe way of pickles."""
    if kind == "safetensors":
        save_file(tensors, tmp_path / name)
    else:
        zipped = kind == "archive"
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=zipped)
    check(tmp_path / name, tensors)


def test_a_renamed_bomb_is_refused(tmp_path, tensors):
    class Trap:
        def __reduce__(self):
            return exec, ("raise SystemExit('the pickle was run')",)

    for zipped in (True, False):
        path = tmp_path / "model.safetensors"
        torch.save(tensors | {"d": Trap()}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"it holds 'builtins\.exec', and rebuilding such an"):
            open_weights(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("order", ["as written", "reversed"])
def test_an_archive_that_another_program_packed(tmp_path, tensors, compression, order):
    """Its values lie elsewhere than torch computes from how it packs itself."""
    torch.save(tensors, tmp_path / "torch.pt")
    with zipfile.ZipFile(tmp_path / "torch.pt") as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(tmp_path / "model.pt", "w", compression) as archive:
        for name, content in reversed(entries) if order == "reversed" else entries:
            archive.writestr(name, content)
    check(tmp_path / "model.pt", tensors)


MAC = {"__MACOSX/._x": b"\0\5\26\7", "__MACOSX/torch/._data.pkl": b"\0\5\26\7"}
FINDER = {"torch/.DS_Store": b"\0\0\0\1Bud1"}
# What lies in an archive before and after the entries of torch, and how these are renamed.
PACKED_AGAIN = {
    "folders and .DS_Store inside": ({"torch/": b"", "torch/data/": b""} | FINDER, {}, str),
    ".DS_Store after": ({}, FINDER, str),
    "__MACOSX": ({}, MAC, str),
    "__MACOSX before": (MAC, {}, str),
    "__MACOSX with a pickle": ({"__MACOSX/data.pkl": b"."}, {}, str),
    ".DS_Store beside": ({".DS_Store": b""}, {}, str),
    ".DS_Store beside, after": ({}, {".DS_Store": b""}, str),
    "a text file beside": ({}, {"README.txt": b"hello"}, str),
    "no folder": ({}, {}, lambda name: name.split("/", 1)[1]),
    "two folders deep": ({}, {}, lambda name: f"model/{name}"),
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("case", PACKED_AGAIN)
def test_an_archive_that_a_file_manager_packed(tmp_path, tensors, case, compression):
    """What torch reads is read, and the rest is called what it is."""
    before, after, rename = PACKED_AGAIN[case]
    torch.save(tensors, tmp_path / "torch.pt")
    with zipfile.ZipFile(tmp_path / "torch.pt") as archive:
        own = {rename(name): archive.read(name) for name in archive.namelist()}
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (before | own | after).items():
            archive.writestr(name, content)
    try:
        torch.load(path, weights_only=True)
    except RuntimeError:
        strange = next(name for name in before | own | after if not name.startswith("torch/"))
        with pytest.raises(ValueError, match="that another program has packed again") as caught:
            open_weights(path)
        assert f"again: {strange!r} is not in the one folder" in str(caught.value)
    else:
        assert "inside" in case or case == ".DS_Store after"
        found = {name: tensor.read() for name, tensor in open_weights(path).items()}
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_an_archive_of_the_other_byte_order(tmp_path, tensors):
    """As a machine whose numbers begin with the other end writes it."""
    torch.save(tensors, tmp_path / "torch.pt")
    other = "big" if sys.byteorder == "little" else "little"
    with zipfile.ZipFile(tmp_path / "torch.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    widths = {"torch/data/0": "4", "torch/data/1": "2", "torch/data/2": "4"}
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for name, content in entries.items():
            if name in widths:
                content = numpy.frombuffer(content, f"u{widths[name]}").byteswap().tobytes()
            if name == "torch/byteorder":
                content = other.encode()
            archive.writestr(name, content)
    assert sum(name in entries for name in widths) == 3
    check(tmp_path / "model.pt", tensors)


def test_values_that_are_not_all_there(tmp_path):
    """The pickle says more numbers than its entry in the archive has."""
    torch.save({"a": torch.arange(8.0)}, tmp_path / "torch.pt")
    with zipfile.ZipFile(tmp_path / "torch.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[:16] if name == "torch/data/0" else content)
    with pytest.raises(ValueError, match=r"model\.pt is not a pickle of tensors alone: it is dam"):
        open_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["x" * 501, "a\nb", "a\x1b[31m", "\udcff"])
def test_names_that_no_message_could_hold(tmp_path, name):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(2), name: torch.ones(2)}, path)
    with pytest.raises(ValueError, match="holds a tensor with the name '") as caught:
        open_weights(path)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < len(str(path)) + 200


# -------------------------------------------------------------------------- called what they are


def packed(write, **options):
    """What `write` puts into a file in memory."""
    buffer = io.BytesIO()
    write(buffer, **options)
    return buffer.getvalue()


def archive_of(*names):
    def write(buffer):
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return packed(write)


def tar(buffer):
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))


LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:14749efc0ae8ef0329391ad4436feb781b402f4fece4883c7ad8d10556d8a36\nsize 3438354725\n"
)
picture = Image.new("RGB", (4, 4))
# What lies in the place of weights -> what the message says after the path.
KINDS = {
    "LFS pointer": (LFS, "is a Git LFS pointer, which stands for .*; run `git lfs pull`, or down"),
    "annex pointer": (b"/annex/objects/SHA256E-s9--ab.bin\n", "is a git-annex pointer, which st"),
    "xet pointer": (b'# xet version 0\nfilesize = 5\nhash = "ab"\n', "is a pointer of the Hugg"),
    "nothing": (b"", "is an empty file; download the file itself again"),
    "zeros": (bytes(9999), "begins with 4096 zeros, as interrupted downloads do; download"),
    "login page": (
        b"\n<!DOCTYPE html>\n<html class=''>",
        r"is a web page \(HTML\), such as that of",
    ),
    "old page": (b"\xef\xbb\xbf<HTML><HEAD><TITLE>404</TITLE>", r"is a web page \(HTML\)"),
    "XML error": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "is an XML document"),
    "JSON error": (b'{"error": "Repository not found"}', "is a JSON document, such as the error"),
    "text error": (b"Invalid username or password.", "begins with 'Invalid user.*; download"),
    "link of Windows": (b"../../blobs/5ede9e4bf3", "a text file that begins with '../../blobs/5"),
    "zip": (archive_of("a/model.ckpt", "b"), "a zip archive of other files, among them 'a/model"),
    "empty zip": (b"PK\5\6" + bytes(18), "is a zip archive of other files; unpack it"),
    "npz": (packed(numpy.savez, x=numpy.ones(2)), r"a zip archive of other files, among them 'x\."),
    "cut archive": (packed(lambda b: torch.save({"a": torch.ones(9)}, b))[:700], "is an incompl"),
    "TorchScript": (
        archive_of("m/constants.pkl", "m/data.pkl"),
        "is a TorchScript archive, which holds a program; give a .saf",
    ),
    "gzip": (gzip.compress(b"x"), "is a gzip archive; unpack it and give the file inside"),
    "tar": (packed(tar), "is a tar archive; unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "is a 7-Zip archive; unpack it"),
    "GGUF": (b"GGUF\3\0\0\0", "is a GGUF file, whose weights are quantised for other programs; g"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\0", "is an HDF5 file, as Keras and TensorFlow write it; give a"),
    "NumPy": (packed(lambda b: numpy.save(b, numpy.ones(2))), "is a NumPy array; give a .safet"),
    "PNG": (packed(picture.save, format="PNG"), r"is an image \(PNG\), not a model"),
    "JPEG": (packed(picture.save, format="JPEG"), r"is an image \(JPEG\), not a model"),
    "WebP": (packed(picture.save, format="WEBP"), r"is an image, sound or film \(RIFF\), not a"),
    "program": (b"\x7fELF\2\1\1", "is a program, not a model"),
    "noise": (bytes(range(128, 256)), "is not a complete safetensors file: its header is damaged"),
    "long header": (b"\xff" * 8 + b"{", "is not a complete safetensors file: its header is dama"),
    "cut safetensors": (b"\x90\0\0\0\0\0\0\0" + b'{"a":{"dtype"', "is not a complete safetensors"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_in_the_place_of_weights(folder, kind):
    content, words = KINDS[kind]
    (folder / UNET).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        load(folder)
    said = str(caught.value)
    assert said.startswith(f"{folder / UNET} is ")
    assert "\n" not in said
    assert len(said) < len(str(folder / UNET)) + 250


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "model.safetensors.crdownload",
            r"unfinished download \(\.crdownload\); let it finish, or do",
        ),
        ("model.ckpt.part", r"is an unfinished download \(\.part\)"),
        ("sd.incomplete", r"is an unfinished download \(\.incomplete\)"),
        ("flax_model.msgpack", r"is a Flax file; give a \.safetensors file of the same model"),
        ("model.onnx", "is an ONNX file; give"),
        ("saved_model.pb", "is a TensorFlow file; give"),
        ("model.xyz", r"is not a weight file; accepted: safetensors files, pickles of torch and"),
    ],
)
def test_endings_that_tell_what_a_file_is(tmp_path, capsys, name, words):
    path = tmp_path / name
    path.write_bytes(bytes(range(129, 200)))
    for read in (load, lambda path: weights.load_original("sd1.5", path)):
        with pytest.raises(ValueError, match=words):
            read(path)
    out = str(tmp_path / "cat.png")
    assert main(["generate", "a cat", "--model", str(path), "--out", out]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"sdlearn: {path} is ")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_length_that_looks_like_another_format(tmp_path):
    """A safetensors file begins with the length of its header.

    23117 is written MZ, 640 as a pickle begins.
    """
    tensors = {"a": torch.ones(2)}
    # A program, gzip, and pickles of the protocols 2 to 5.
    for length in (0x5A4D, 0x8B1F, 0x280, 0x380, 0x480, 0x10580):
        path = tmp_path / "model.safetensors"
        save_file(tensors, path)
        content = path.read_bytes()
        start = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + start].ljust(length)
        path.write_bytes(length.to_bytes(8, "little") + header + content[8 + start :])
        check(path, tensors)
        assert describe_content(path) is None


JSON_FILES = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
NOT_JSON = ["LFS pointer", "nothing", "login page", "XML error", "zeros", "gzip"]


@pytest.mark.parametrize("name", [*JSON_FILES, "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("kind", NOT_JSON)
def test_something_else_in_the_place_of_a_configuration(folder, name, kind):
    content, words = KINDS[kind]
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        load(folder)
    assert str(caught.value).startswith(str(folder / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", NOT_JSON)
def test_something_else_in_the_place_of_a_tokenizer(folder, name, kind):
    content, words = KINDS[kind]
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(data_folder("storybook") / "tokenizer", folder / "tokenizer")
    (folder / "tokenizer" / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_tokenizer(folder / "tokenizer")
    assert str(caught.value).startswith(f"{folder / 'tokenizer' / name} is ")
    assert "\n" not in str(caught.value)


def test_good_files_are_nothing_else(published):
    files = [path for path in published.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert all(describe_content(path) is None for path in files)


# ------------------------------------------------------------------------------------------ shards


@pytest.fixture
def shards(published, tmp_path):
    """A model in shards, and the index of its U-Net."""
    load(published).save_pretrained(tmp_path / "model", max_bytes=30_000)
    return tmp_path / "model", tmp_path / "model" / (UNET + ".index.json")


ELSEWHERE = [
    "../outside.safetensors", "ABSOLUTE", "./../outside.safetensors", "sub/x.safetensors", "..",
    "..\\outside.safetensors", "C:outside.safetensors", "\\\\host\\share\\x.safetensors", ".",
    "link/../../outside.safetensors", "a\0b", "/etc/passwd", "sub/../../outside.safetensors",
    "~/x.safetensors/..", "x/" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE, ids=range(len(ELSEWHERE)))
def test_shards_stay_in_the_folder_of_their_index(shards, tmp_path, name):
    folder, index = shards
    outside = tmp_path / "outside.safetensors"
    content = json.loads(index.read_text())
    first = min(content["weight_map"].values())
    shutil.move(index.parent / first, outside)
    (index.parent / "sub").mkdir()
    shutil.copy(outside, index.parent / "sub" / "x.safetensors")
    moved = str(outside) if name == "ABSOLUTE" else name
    for key, shard in content["weight_map"].items():
        content["weight_map"][key] = moved if shard == first else shard
    index.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"names the shard '.*'; a shard must lie in the"
    ) as caught:
        load(folder)
    assert str(index) in str(caught.value)
    assert len(str(caught.value)) < len(str(index)) + 300


@pytest.mark.skipif(os.name == "nt", reason="links need a permission on Windows")
def test_the_links_of_the_hub_s_cache_are_followed(shards, tmp_path):
    folder, _ = shards
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0f3"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(path for path in folder.rglob("*") if path.is_file()):
        place = snapshot / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / str(number))
        place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    ours, again = load(folder), load(snapshot)
    state = ours.unet.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in again.unet.state_dict().items())


def copy_of(path):
    """A file's tensors, in memory of their own: the file may be written."""
    return {key: value.clone() for key, value in load_file(path).items()}


def test_a_tensor_in_two_shards(shards):
    folder, index = shards
    one, two, *_ = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    first, second = copy_of(index.parent / one), copy_of(index.parent / two)
    key = min(first)
    save_file(second | {key: first[key] + 1}, index.parent / two)
    with pytest.raises(ValueError, match=f"{two} holds '{key}', which another shard holds too"):
        load(folder)


def test_shards_of_other_kinds(shards):
    """A shard is read as what it is, too; but never as another index."""
    folder, index = shards
    reference = load(folder).unet.state_dict()
    content = json.loads(index.read_text())
    one, two, *_ = sorted(set(content["weight_map"].values()))
    torch.save(copy_of(index.parent / one), index.parent / one)
    again = load(folder).unet.state_dict()
    assert all(torch.equal(again[key], reference[key]) for key in reference)
    (index.parent / two).write_bytes(LFS)
    with pytest.raises(ValueError, match=f"{two} is a Git LFS pointer"):
        load(folder)
    shutil.copy(index, index.parent / two)
    with pytest.raises(ValueError, match=f"{two} is a JSON document"):
        load(folder)


# ------------------------------------------------------------------------------- odd safetensors

NUMBERS = {  # every type of numbers that a header can name and torch has -> its bytes
    "F8_E4M3FNUZ": (1, torch.float8_e4m3fnuz),
    "F8_E5M2FNUZ": (1, torch.float8_e5m2fnuz),
    "F8_E8M0": (1, torch.float8_e8m0fnu),
    "U16": (2, torch.uint16),
    "U32": (4, torch.uint32),
    "U64": (8, torch.uint64),
    "C64": (8, torch.complex64),
}


def write_header(path, entry, data=b""):
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize("name", NUMBERS)
def test_every_type_of_safetensors(tmp_path, name):
    """What training left in a file may have any; a weight of another kind is refused by name."""
    size, dtype = NUMBERS[name]
    data = torch.ones(2, dtype=dtype).view(torch.uint8).numpy().tobytes()
    entry = {"dtype": name, "shape": [2], "data_offsets": [0, 2 * size]}
    found = open_weights(write_header(tmp_path / "a.safetensors", entry, data))["a"]
    assert found.dtype == dtype
    assert found.read().to(torch.complex64).tolist() == [1, 1]


def test_the_library_s_own_messages_are_shortened(tmp_path):
    entry = {"dtype": "F" * 3000, "shape": [1], "data_offsets": [0, 4]}
    path = write_header(tmp_path / "a.safetensors", entry, bytes(4))
    with pytest.raises(ValueError, match="not a complete safetensors file") as caught:
        open_weights(path)
    assert len(str(caught.value)) < 250 + len(str(path))


def test_a_shard_whose_name_has_two_lines(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x\ny.safetensors"}}))
    with pytest.raises(ValueError, match="be given by its name alone") as caught:
        open_weights(index)
    assert "\n" not in str(caught.value)


def test_a_type_that_torch_does_not_have(tmp_path):
    entry = {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}
    path = write_header(tmp_path / "a.safetensors", entry, bytes(2))
    with pytest.raises(ValueError, match="'a' is of the type F4; accepted: F64, F32"):
        open_weights(path)
