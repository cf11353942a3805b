"""A user's own folder: what is read, and one clear sentence for everything that cannot be."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from sdlearn.storybook import read_folder


def halves(width: int, height: int) -> Image.Image:
    """Red on the left half, blue on the right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    def write(*rows: dict | str):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path

    return write


def test_pictures_are_resized_cropped_and_captioned(folder, tmp_path):
    halves(300, 100).save(tmp_path / "wide.png")
    (tmp_path / "more").mkdir()
    halves(80, 160).save(tmp_path / "more" / "tall.jpg", quality=95)
    path = folder(
        {"file_name": "wide.png", "text": "  half and half "},
        "",
        {"file_name": "more/tall.jpg", "caption": "Größe zählt", "other": 3},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = read_folder(path, 64)
        assert [text for _, text in read_folder(str(path), 64)] == ["half and half", "Größe zählt"]
    assert [text for _, text in pairs] == ["half and half", "Größe zählt"]
    for picture, _ in pairs:
        assert (picture.mode, picture.size) == ("RGB", (64, 64))
        pixels = np.asarray(picture, dtype=int)
        # The middle was kept: the border between the halves is still in the middle.
        assert (np.abs(pixels[:, :29] - (255, 0, 0)) < 30).all()
        assert (np.abs(pixels[:, 35:] - (0, 0, 255)) < 30).all()


def test_the_camera_that_was_held_upright(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright: left becomes top
    halves(80, 80).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    ((picture, _),) = read_folder(folder({"file_name": "turned.jpg", "text": "x"}), 32)
    assert picture.getpixel((16, 4))[0] > 220
    assert picture.getpixel((16, 28))[2] > 220


def test_other_kinds_of_pixels(folder, tmp_path):
    clear = halves(64, 64).convert("RGBA")
    clear.putalpha(Image.fromarray(np.uint8(255) * (np.arange(64) < 32)[None].repeat(64, 0)))
    clear.save(tmp_path / "clear.png")
    Image.new("L", (64, 64), 77).save(tmp_path / "grey.png")
    Image.fromarray(np.full((64, 64), 128 * 256, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    halves(64, 64).quantize(4).save(tmp_path / "few.gif")
    names = ("clear.png", "grey.png", "deep.png", "print.jpg", "few.gif")
    pairs = read_folder(folder(*({"file_name": name, "text": name} for name in names)), 64)
    seen = {text: picture for picture, text in pairs}
    assert seen["clear.png"].getpixel((60, 8)) == (255, 255, 255)  # transparent is paper
    assert seen["clear.png"].getpixel((4, 8)) == (255, 0, 0)
    assert seen["grey.png"].getpixel((8, 8)) == (77, 77, 77)
    assert seen["deep.png"].getpixel((8, 8)) == (128, 128, 128)
    assert seen["print.jpg"].getpixel((8, 8))[0] > 220
    assert seen["few.gif"].getpixel((60, 8)) == (0, 0, 255)


def test_a_broken_picture_is_named_and_left_out(folder, tmp_path):
    halves(64, 64).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.jpg").write_text("this is no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "drawer.png").mkdir()
    bad = ("cut.png", "words.jpg", "empty.png", "drawer.png")
    rows = [{"file_name": name, "text": "x"} for name in (*bad, "absent.png", "good.png")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairs = read_folder(folder(*rows), 64)
    assert len(pairs) == 1
    said = [str(warning.message) for warning in caught]
    assert len(said) == 5
    for name, sentence in zip(bad, said, strict=False):
        assert name in sentence
        assert "cannot be read as an image and was skipped" in sentence
    assert "absent.png is missing and was skipped" in said[4]


def test_a_folder_without_a_usable_picture(folder, tmp_path):
    with pytest.raises(ValueError, match="no image that can be read"):
        read_folder(folder(), 64)
    (tmp_path / "words.jpg").write_text("this is no picture")
    with (
        pytest.warns(UserWarning, match=r"words\.jpg"),
        pytest.raises(ValueError, match="no image that can be read"),
    ):
        read_folder(folder({"file_name": "words.jpg", "text": "x"}), 64)


def test_missing_folder_and_missing_metadata(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; accepted: a folder"):
        read_folder(tmp_path / "nowhere", 64)
    with pytest.raises(FileNotFoundError, match=r"metadata\.jsonl is missing; accepted: one line"):
        read_folder(tmp_path, 64)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is a file; accepted: a folder"):
        read_folder(tmp_path / "file", 64)
    with pytest.raises(ValueError, match="size is 0; accepted: a whole number"):
        read_folder(tmp_path, 0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"file_name": "good.png", "text": ', "line 3 is not JSON"),
        ('["good.png", "x"]', "line 3 is not a JSON object"),
        ('{"text": "x"}', "line 3 has no file_name"),
        ('{"file_name": 7, "text": "x"}', "line 3 has no file_name"),
        ('{"file_name": "good.png"}', "line 3 has no text"),
        ('{"file_name": "good.png", "text": " "}', "line 3 has no text"),
        ('{"file_name": "good.png", "text": ["x"]}', "line 3 has no text"),
    ],
)
def test_a_bad_line_is_named(folder, tmp_path, line, words):
    halves(64, 64).save(tmp_path / "good.png")
    path = folder({"file_name": "good.png", "text": "x"}, "", line)
    with pytest.raises(ValueError, match=rf"metadata\.jsonl, {words}.*accepted: .*file_name"):
        read_folder(path, 64)


def test_metadata_as_other_systems_write_it(tmp_path):
    halves(64, 64).save(tmp_path / "good.png")
    row = b'{"file_name": "good.png", "text": "x"}\r\n'
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + row)  # byte order mark, CR LF
    assert len(read_folder(tmp_path, 64)) == 1
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe" + row)
    with pytest.raises(ValueError, match=r"metadata\.jsonl is not UTF-8 text"):
        read_folder(tmp_path, 64)
