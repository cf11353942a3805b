"""Where a folder's captions come from: a metadata file, or text files beside the images."""

import json
import os
import warnings

import pytest
from PIL import Image

from sdlearn.storybook import read_folder
from sdlearn.storybook.folder_captions import captioned_files


@pytest.fixture
def folder(tmp_path):
    """A folder with red.png, blue.JPG and more/green.webp."""
    place = tmp_path / "mine"
    (place / "more").mkdir(parents=True)
    for name, colour in (("red.png", "red"), ("blue.JPG", "blue"), ("more/green.webp", "lime")):
        Image.new("RGB", (8, 8), colour).save(place / name)
    return place


def captions(folder) -> dict[str, str]:
    """{file: caption}; a warning fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_folder(folder, 8)) == len(captioned_files(folder))
        found = captioned_files(folder)
    return {file.relative_to(folder).as_posix(): text for file, text in found}


@pytest.mark.parametrize(
    "content",
    [
        'file_name,text\nred.png,"a red cat, on the sand"\nmore/green.webp,grass\n',
        '\ufefffile_name,text\r\nred.png,"a red cat, on the sand"\r\nmore/green.webp,grass\r\n',
        'id, caption, file_name\n1,"a red cat, on the sand",red.png\n\n2, grass ,more/green.webp',
        'file_name,text\n"red.png","a red cat, on the sand"\n"more\\green.webp",grass\n',
    ],
    ids=["plain", "byte order mark", "more columns", "as Windows writes it"],
)
def test_metadata_csv(folder, content):
    (folder / "metadata.csv").write_bytes(content.encode())
    found = captions(folder)
    assert found == {"red.png": "a red cat, on the sand", "more/green.webp": "grass"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "metadata.csv begins with the columns []; accepted: the columns file_name,text"),
        ("file_name;text\nred.png;x", "begins with the columns ['file_name;text']; accepted"),
        ("red.png,a red cat", "begins with the columns ['red.png', 'a red cat']; accepted"),
        ("file_name,text\nred.png,a cat, a dog", "line 2 has 3 columns, but the first line has 2"),
        ("file_name,text\nred.png", "line 2 has 1 columns, but the first line has 2"),
        ("file_name,text\nred.png,\"a cat", "line 2 is not CSV (unexpected end of data)"),
        ("file_name,text\n\nred.png,", "line 3 has no text"),
        ("file_name,text\n,x", "line 2 has no file_name"),
        ("file_name,text\nred.png," + "x" * 200_000, "line 2 is not CSV (field larger than"),
    ],
    ids=[
        "empty", "semicolons", "no header", "comma without quotes", "short", "open quote",
        "no caption", "no name", "long",
    ],
)  # fmt: skip
def test_a_malformed_csv_is_named_with_its_line(folder, content, said):
    (folder / "metadata.csv").write_text(content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_folder(folder, 8)
    assert said in str(caught.value)
    assert "accepted: " in str(caught.value)
    assert len(str(caught.value)) < 400


def test_text_files_beside_the_images(folder):
    (folder / "red.txt").write_bytes("\ufeff a red cat \r\n".encode())
    (folder / "blue.caption").write_text("Größe zählt", "utf-8")
    (folder / "more" / "green.TXT").write_text("grass\n")
    (folder / "notes.txt").write_text("of no image\nat all")
    for name in ("._red.png", ".DS_Store", "Thumbs.db", "archive.zip"):  # what systems leave
        (folder / name).write_bytes(b"\0\1")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "small.png").write_bytes((folder / "red.png").read_bytes())
    assert captions(folder) == {
        "blue.JPG": "Größe zählt",
        "more/green.webp": "grass",
        "red.png": "a red cat",
    }


def test_images_without_a_caption_are_left_out_with_one_warning(folder):
    (folder / "red.txt").write_text("a red cat")
    with pytest.warns(UserWarning, match="without a caption file") as warned:
        assert len(read_folder(folder, 8)) == 1
    (one,) = warned
    assert "2 in all, ['blue.JPG', 'green.webp']" in str(one.message)


def test_the_metadata_decides_where_there_are_text_files_too(folder):
    (folder / "red.txt").write_text("not this one")
    (folder / "metadata.csv").write_text("file_name,text\nred.png,this one\n")
    assert captions(folder) == {"red.png": "this one"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"red.txt": "a", "red.caption": "b"}, "red.png has the captions red.txt and red.caption"),
        ({"red.txt": " \n"}, "red.txt has 0 lines of text; accepted: one caption"),
        ({"red.txt": "one\ntwo"}, "red.txt has 2 lines of text; accepted: one caption"),
        ({"red.txt": b"\xff\xfea\0"}, "red.txt is not UTF-8 text"),
        ({"red.txt": "Größe".encode("latin-1")}, "red.txt is not UTF-8 text"),
        ({"metadata.csv": b"\xff\xfef\0"}, "metadata.csv is not UTF-8 text"),
        ({"metadata.csv": "", "metadata.jsonl": ""}, "has metadata.jsonl and metadata.csv"),
        ({"metadata.jsonl": "[" * 100_000}, "metadata.jsonl, line 1 is not JSON"),
    ],
)
def test_captions_that_cannot_be_read_are_named(folder, files, said):
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with (
        pytest.raises(ValueError) as caught,  # noqa: PT011
        warnings.catch_warnings(action="ignore"),
    ):
        read_folder(folder, 8)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png", "more/../../secret.png", "/etc/secret.png", "//host/share/secret.png",
        "C:/secret.png", "C:secret.png", "C:\\secret.png", "..\\secret.png", "\\secret.png",
        "\\\\host\\share\\secret.png", "more\\..\\..\\secret.png", "out.png", "outside/secret.png",
        "red.png\0.txt",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_paths_stay_inside_the_folder(folder, name, kind):
    secret = folder.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (folder / "out.png").symlink_to(secret)
    (folder / "outside").symlink_to(folder.parent)
    rows = {
        "csv": f"file_name,text\nred.png,x\n{name},x\n",
        "jsonl": "\n\n".join(
            json.dumps({"file_name": each, "text": "x"}) for each in ("red.png", name)
        ),
    }
    (folder / f"metadata.{kind}").write_text(rows[kind])
    with pytest.raises(ValueError, match=rf"metadata\.{kind}, line 3 names .*accepted: "):
        read_folder(folder, 8)


def test_links_inside_and_to_the_folder_are_followed(folder):
    (folder / "again.png").symlink_to("red.png")
    (folder / "metadata.csv").write_text("file_name,text\nagain.png,x\nmore/./green.webp,y\n")
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert captions(link) == {"again.png": "x", "more/green.webp": "y"}


def test_the_links_of_the_hubs_cache_are_followed(folder):
    snapshot = folder.parent / "datasets--who--what" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    (blobs / "1").write_bytes((folder / "red.png").read_bytes())
    (blobs / "2").write_text("file_name,text\nred.png,a red cat\n")
    (snapshot / "red.png").symlink_to("../../blobs/1")
    (snapshot / "metadata.csv").symlink_to("../../blobs/2")
    assert captions(snapshot) == {"red.png": "a red cat"}
    (blobs / "1").unlink()
    (blobs / "1").symlink_to(folder / "red.png")
    with pytest.raises(ValueError, match="a link that leads out of the folder"):
        read_folder(snapshot, 8)


@pytest.mark.parametrize("linked", ["red.png", "red.txt"])
def test_captioned_links_that_lead_out_are_named(folder, linked):
    (folder / "red.txt").write_text("x")
    os.replace(folder / linked, folder.parent / linked)
    (folder / linked).symlink_to(folder.parent / linked)
    with (
        pytest.raises(ValueError, match=rf"names .*{linked}', a link that leads out of the folder"),
        warnings.catch_warnings(action="ignore"),
    ):
        read_folder(folder, 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("metadata", [True, False])
def test_a_pipe_in_the_place_of_an_image_is_left_out(folder, metadata):
    os.mkfifo(folder / "pipe.png")
    for name in ("pipe", "red", "blue", "more/green"):
        (folder / f"{name}.txt").write_text("x")
    if metadata:
        (folder / "metadata.csv").write_text("file_name,text\npipe.png,x\nred.png,y\n")
    with pytest.warns(UserWarning, match=r"pipe\.png cannot be read .* skipped: it is not a file"):
        assert len(read_folder(folder, 8)) == (1 if metadata else 3)


def test_links_in_a_circle_and_long_names_are_left_out_with_a_warning(folder):
    (folder / "loop.png").symlink_to("loop.png")
    rows = "\n".join(f"{name},x" for name in ("loop.png", "n" * 300 + ".png", "red.png"))
    (folder / "metadata.csv").write_text(f"file_name,text\n{rows}\n")
    with pytest.warns(UserWarning, match="skipped") as warned:
        assert len(read_folder(folder, 8)) == 1
    assert len(warned) == 2
