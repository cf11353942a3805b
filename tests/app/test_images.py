"""Images in every mode and format: image, mask, hint, upload and training folder mean the same."""

import io
import json
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from sdlearn.storybook import read_folder
from sdlearn.utils.image_files import open_image, upright
from sdlearn.utils.images import as_images, as_mask, fit_image

N = 64
RED, TEAL = (200, 40, 80), (10, 120, 130)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def halves(left: object, right: object, dtype: type = np.uint8, n: int = N) -> np.ndarray:
    """(n, n[, c]): one value on the left half, another on the right."""
    pixels = np.empty((n, n, *np.shape(left)), dtype)
    pixels[:, : n // 2], pixels[:, n // 2 :] = left, right
    return pixels


def colours() -> Image.Image:
    return Image.fromarray(halves(RED, TEAL))


def faded() -> Image.Image:
    """Red on the left; teal that is transparent on the right."""
    return Image.fromarray(halves((*RED, 255), (*TEAL, 0)))


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def grey(left: float, right: float, dtype: type, mode: str) -> Image.Image:
    image = Image.fromarray(halves(left, right, dtype))
    assert image.mode == mode
    return image


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(depth: int, colour: int, rows: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG file of a kind that Pillow cannot write."""
    head = struct.pack(">IIBBBBB", N, N, depth, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    data = chunk(b"IDAT", zlib.compress(lines))
    return (
        b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", head), *chunks, data]) + chunk(b"IEND", b"")
    )


def frames(kind: str) -> bytes:
    later = Image.fromarray(halves(BLACK, WHITE))
    options = {"lossless": True} if kind == "WEBP" else {}
    return stored(colours(), kind, save_all=True, append_images=[later], duration=50, **options)


def transparent_palette() -> bytes:
    image = colours().quantize(2)
    first = image.getpixel((N - 1, 0))
    return stored(image, "PNG", transparency=first)


def transparent_gif() -> bytes:
    image = colours().quantize(2)
    return stored(image, "GIF", transparency=image.getpixel((N - 1, 0)))


def rgba_palette() -> Image.Image:
    image = Image.new("P", (N, N))
    image.putpalette([*RED, 255, *TEAL, 0], "RGBA")
    image.paste(1, (N // 2, 0, N, N))
    return image


def faded_palette() -> bytes:
    """A palette in which each entry has its own alpha."""
    image = colours().quantize(2)
    alphas = [0, 0]
    alphas[image.getpixel((0, 0))] = 255
    return stored(image, "PNG", transparency=bytes(alphas))


def lab() -> bytes:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    return stored(ImageCms.applyTransform(colours(), transform), "TIFF")


def adobe() -> bytes:
    """CMYK as Adobe writes it to JPEG: inverted, which a marker says. Pillow writes it so, too."""
    content = stored(inks(), "JPEG", quality=100)
    assert b"Adobe" in content[:200]
    return content


def inks() -> Image.Image:
    return Image.fromarray(halves((0, 200, 100, 0), (250, 0, 0, 0)), "CMYK")


def few_bits(left: int, right: int, bits: int, clear: int) -> bytes:
    """A grey PNG of 2 or 4 bits, in which one value is transparent."""
    row = [value * (255 // (2**bits - 1)) for value in (left, right)]
    pixels = np.repeat(np.array(row, np.uint8), N * bits // 16)
    return png(bits, 0, np.tile(pixels, (N, 1)), chunk(b"tRNS", struct.pack(">H", clear)))


G16 = halves(40 * 257, 200 * 257, ">u2")
KEY16 = chunk(b"tRNS", struct.pack(">H", 200 * 257))
RGB16 = halves([257 * v for v in RED], [257 * v for v in TEAL], ">u2")
RGB_KEY16 = chunk(b"tRNS", struct.pack(">3H", *(257 * v for v in TEAL)))
G40, G200 = (40, 40, 40), (200, 200, 200)

# Bytes of a file, or an image in memory -> the colours of its halves.
CASES = {
    "RGB PNG": (lambda: stored(colours(), "PNG"), RED, TEAL),
    "RGB 16 bits PNG": (lambda: png(16, 2, RGB16), RED, TEAL),
    "RGB 16 bits PNG, one colour transparent": (lambda: png(16, 2, RGB16, RGB_KEY16), RED, WHITE),
    "RGB PNG, one colour transparent": (
        lambda: stored(colours(), "PNG", transparency=TEAL), RED, WHITE,
    ),
    "RGBA PNG": (lambda: stored(faded(), "PNG"), RED, WHITE),
    "RGBA WebP": (lambda: stored(faded(), "WEBP", lossless=True, exact=True), RED, WHITE),
    "RGBA half": (lambda: Image.fromarray(halves((*RED, 255), (0, 0, 0, 128))), RED, (127,) * 3),
    "RGBa": (lambda: faded().convert("RGBa"), RED, WHITE),
    "RGBX": (lambda: colours().convert("RGBX"), RED, TEAL),
    "L": (lambda: stored(grey(40, 200, np.uint8, "L"), "PNG"), G40, G200),
    "L PNG, one grey transparent": (
        lambda: stored(grey(40, 200, np.uint8, "L"), "PNG", transparency=200), G40, WHITE,
    ),
    "LA": (lambda: stored(Image.fromarray(halves((40, 255), (200, 0))), "PNG"), G40, WHITE),
    "LA 16 bits": (
        lambda: png(16, 4, halves((40 * 257, 65535), (200 * 257, 0), ">u2")), G40, WHITE,
    ),
    "La": (lambda: Image.fromarray(halves((40, 255), (200, 0))).convert("La"), G40, WHITE),
    "PA": (lambda: faded().convert("PA"), RED, WHITE),
    "1 bit": (lambda: stored(grey(0, 255, np.uint8, "L").convert("1"), "PNG"), BLACK, WHITE),
    "1 bit, black transparent": (
        lambda: stored(grey(0, 255, np.uint8, "L").convert("1"), "PNG", transparency=0),
        WHITE, WHITE,
    ),
    "P PNG": (lambda: stored(colours().quantize(2), "PNG"), RED, TEAL),
    "P PNG, one entry transparent": (transparent_palette, RED, WHITE),
    "P PNG, an alpha for each entry": (faded_palette, RED, WHITE),
    "GIF, moving": (lambda: frames("GIF"), RED, TEAL),
    "PNG, moving": (lambda: frames("PNG"), RED, TEAL),
    "WebP, moving": (lambda: frames("WEBP"), RED, TEAL),
    "TIFF, pages": (lambda: frames("TIFF"), RED, TEAL),
    "I;16 PNG": (lambda: png(16, 0, G16), G40, G200),
    "I;16 PNG, one grey transparent": (lambda: png(16, 0, G16, KEY16), G40, WHITE),
    "I;16 PNG, black and white": (lambda: png(16, 0, halves(0, 65535, ">u2")), BLACK, WHITE),
    "I;16B TIFF": (lambda: stored(Image.fromarray(G16), "TIFF"), G40, G200),
    "I;16 TIFF": (lambda: stored(Image.fromarray(G16.astype("<u2")), "TIFF"), G40, G200),
    "I, 16 bits PGM": (lambda: b"P5 64 64 65535\n" + G16.tobytes(), G40, G200),
    "I TIFF": (lambda: stored(grey(40 * 257, 200 * 257, np.int32, "I"), "TIFF"), G40, G200),
    "F TIFF, 0 … 1": (
        lambda: stored(grey(40 / 255, 200 / 255, np.float32, "F"), "TIFF"), G40, G200,
    ),
    "F TIFF, 0 … 255": (lambda: stored(grey(40, 200, np.float32, "F"), "TIFF"), G40, G200),
    "F mask, 0 and 1": (lambda: grey(0, 1, np.float32, "F"), BLACK, WHITE),
    "F, 0 … 1 and rounding": (lambda: grey(-1e-7, 1 + 1e-7, np.float32, "F"), BLACK, WHITE),
    "F, 0 … 255 and rounding": (lambda: grey(-1e-5, 255.001, np.float32, "F"), BLACK, WHITE),
    "I of 8 bits": (lambda: grey(40, 200, np.uint8, "L").convert("I"), G40, G200),
    "I of 8 bits, a mask": (lambda: grey(0, 255, np.int32, "I"), BLACK, WHITE),
    "2 bits PNG, a dark grey transparent": (lambda: few_bits(2, 1, 2, 1), (170,) * 3, WHITE),
    "4 bits PNG, a dark grey transparent": (lambda: few_bits(4, 12, 4, 4), WHITE, (204,) * 3),
    "1 bit PNG, black transparent": (
        lambda: png(1, 0, np.packbits(halves(0, 1), axis=1), chunk(b"tRNS", b"\0\0")),
        WHITE, WHITE,
    ),
    "4 bits palette PNG, an alpha for the first": (
        lambda: png(4, 3, np.repeat(halves(0, 17, np.uint8, 2)[:1].repeat(N, 0), N // 4, axis=1),
                    chunk(b"PLTE", bytes([*RED, *TEAL])), chunk(b"tRNS", b"\0")),
        WHITE, TEAL,
    ),
    "GIF, a transparent entry": (transparent_gif, RED, WHITE),
    "P with an RGBA palette": (rgba_palette, RED, WHITE),
    "RGBA AVIF": (lambda: stored(faded(), "AVIF", quality=100), RED, WHITE),
    "RGBA JPEG 2000": (lambda: stored(faded(), "JPEG2000"), RED, WHITE),
    "CMYK TIFF": (
        lambda: stored(inks(), "TIFF"), (255, 55, 155), (5, 255, 255),
    ),
    "CMYK JPEG of Adobe": (adobe, (255, 55, 155), (5, 255, 255)),
    "YCbCr JPEG": (lambda: stored(colours(), "JPEG", quality=100, subsampling=0), RED, TEAL),
    "YCbCr": (lambda: colours().convert("YCbCr"), RED, TEAL),
    "HSV": (lambda: colours().convert("HSV"), RED, TEAL),
    "LAB TIFF": (lab, RED, TEAL),
    "BMP": (lambda: stored(colours(), "BMP"), RED, TEAL),
    "TGA": (lambda: stored(faded(), "TGA"), RED, WHITE),
}  # fmt: skip
LOSSY = {
    "RGBA AVIF": 3,
    "CMYK JPEG of Adobe": 4,
    "YCbCr JPEG": 3,
    "YCbCr": 3,
    "HSV": 4,
    "LAB TIFF": 8,
}
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(params=CASES.items(), ids=CASES)
def case(request):
    """(an image or the bytes of a file, the left colour, the right one, a tolerance)."""
    name, (make, left, right) = request.param
    return make(), np.array(left), np.array(right), LOSSY.get(name, 1)


def image_of(made: bytes | Image.Image) -> Image.Image:
    return opened(made) if isinstance(made, bytes) else made


def check(found: np.ndarray, left: np.ndarray, right: np.ndarray, tolerance: float) -> None:
    """found (h, w[, 3]) in 0 … 255, without the resized seam in the middle."""
    w = found.shape[1]
    assert np.abs(found[:, : w // 2 - 4] - left).max() <= tolerance
    assert np.abs(found[:, w // 2 + 4 :] - right).max() <= tolerance


@pytest.mark.parametrize("size", [None, 32], ids=["own size", "resized"])
def test_image_and_hint(case, size):
    made, left, right, tolerance = case
    for x in (
        fit_image(image_of(made), size, size, 8),
        as_images("control", [image_of(made)], "RGB", (size or N,) * 2, 8),
    ):
        assert x.shape == (1, 3, size or N, size or N)
        check(255 * x[0].permute(1, 2, 0).numpy(), left, right, tolerance)


@pytest.mark.filterwarnings("ignore:mask is dark everywhere")
def test_mask(case):
    made, left, right, tolerance = case
    grey = as_images("mask", image_of(made), "L", (N, N), 1)
    luma = left @ LUMA, right @ LUMA
    check(255 * grey[0, 0].numpy(), *luma, tolerance)
    mask = as_mask(image_of(made), torch.zeros(1, 3, N, N))
    assert mask[0, 0, 0, [0, -1]].tolist() == [float(value >= 127.5) for value in luma]


def test_training_folder(case, tmp_path):
    made, left, right, tolerance = case
    if not isinstance(made, bytes):
        pytest.skip("a mode that no file has")
    (tmp_path / "one.png").write_bytes(made)  # the content says what it is, not the name
    row = {"file_name": "one.png", "text": "x"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((image, _),) = read_folder(tmp_path, N)
    check(np.asarray(image, float), left, right, tolerance)


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "I", "F", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_mode(mode, orientation):
    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8, :12] = 255  # the upper left quarter of the upright image
    turned = ImageOps.exif_transpose(tagged(Image.fromarray(pixels), INVERSE[orientation]))
    image = tagged(as_mode(turned, mode), orientation)
    found = np.asarray(upright("image", image, "L"))
    assert found.shape == (16, 24)
    assert np.array_equal(found, pixels)


INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def tagged(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[0x0112] = orientation
    return image


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(image).astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image).astype(np.float32))
    return (image.convert("RGB") if mode == "CMYK" else image).convert(mode)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_no_orientation():
    turned = colours().transpose(Image.Transpose.ROTATE_90)
    whole = tagged(Image.new("L", (1, 1)), 6).getexif().tobytes()
    for content, is_turned in ((whole, True), (whole[:18], False), (b"Exif\0\0junk", False)):
        file = stored(turned, "PNG", exif=content)
        found = upright("image", opened(file), "RGB")
        assert np.array_equal(found, colours() if is_turned else turned)


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (1, 1)])
def test_thin_and_tiny_images_are_resized(size, tmp_path):
    image = Image.new("RGB", size, RED)
    x = fit_image(image, 64, 32, 8)
    assert (255 * x).round().flatten(2).unique(dim=2).flatten().tolist() == list(RED)
    assert as_mask(image, x).unique().tolist() == [0]
    image.save(tmp_path / "one.png")
    (tmp_path / "one.txt").write_text("x")
    ((found, _),) = read_folder(tmp_path, 16)
    assert found.getcolors() == [(256, RED)]


def test_the_frame_that_an_animation_is_at():
    moving = opened(frames("GIF"))
    moving.seek(1)
    assert upright("image", moving, "RGB").getpixel((N - 1, 0)) == WHITE


def test_a_list_of_several_modes_and_the_caller_s_image_stays_as_it_is():
    images = [colours(), faded(), opened(png(16, 0, G16)), colours().quantize(2)]
    kept = [(image.mode, image.tobytes()) for image in images]
    x = as_images("image", images, "RGB", None, 8)
    assert (255 * x[:, :, 0, -1]).round().tolist() == [[*c] for c in (TEAL, WHITE, G200, TEAL)]
    assert [(image.mode, image.tobytes()) for image in images] == kept


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: grey(-1, 1, np.float32, "F"), "x has grey values from -1 to 1 (mode F); values "
         "must lie in 0 … 1 or 0 … 255"),
        (lambda: grey(0, 65535, np.float32, "F"), "x has grey values from 0 to 65535 (mode F)"),
        (lambda: grey(0, np.nan, np.float32, "F"), "x has grey values from nan to nan (mode F)"),
        (lambda: grey(0, np.inf, np.float32, "F"), "x has grey values from 0 to inf (mode F)"),
        (lambda: grey(0, 1.02, np.float32, "F"), "x has grey values from 0 to 1.02 (mode F); "
         "values must lie in 0 … 1 or 0 … 255"),
        (lambda: closed("PNG"), "x is not an image that can be read: its file was closed before"),
        (lambda: closed("JPEG"), "x is not an image that can be read: its file was closed before"),
        (lambda: grey(-5, 5, np.int32, "I"), "x has grey values from -5 to 5 (mode I); values "
         "must lie in 0 … 65535"),
        (lambda: grey(0, 2**31 - 1, np.int32, "I"), "x has grey values from 0 to 2.14748e+09"),
        (lambda: Image.new("RGB", (0, 8)), "x is 0 x 8 pixels, so it is empty"),
        (lambda: opened(stored(colours(), "PNG")[:120]), "x is not an image that can be read: "),
        (lambda: opened(stored(colours(), "JPEG")[:-60]), "x is not an image that can be read: "),
        (lambda: Image.new("L", (1, 100_000)), "x is 1 x 100000 pixels (width x height); both "
         "must be at least 8"),
        (lambda: Path("one.png"), "x is a PosixPath; it must be a PIL image"),
        (lambda: "one.png", "x is a str; it must be a PIL image"),
        (lambda: np.zeros((8, 8, 3)), "x is a ndarray; it must be a PIL image"),
        (list, "x is a list; it must be a PIL image"),
        (lambda: [colours(), None], "x is a list; it must be a PIL image"),
    ],
    ids=[
        "below 0", "above 255", "NaN", "infinite", "above 1", "closed PNG", "closed JPEG",
        "negative", "above 65535", "empty", "cut PNG",
        "cut JPEG", "thin", "path", "name", "array", "no image", "not only images",
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_cannot_be_used_is_said_in_a_sentence(make, said, mode):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        as_images("x", make(), mode, None, 8)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def closed(kind: str) -> Image.Image:
    """An image whose `with` block has ended before its pixels were read."""
    with opened(stored(colours(), kind)) as image:
        return image


@pytest.mark.parametrize(
    ("values", "said"),
    [((0, 1), True), ((0, 127), True), ((0, 0), False), ((0, 128), False), ((1, 255), False)],
)
def test_a_mask_of_zeros_and_ones_is_said_to_repaint_nothing(values, said, recwarn):
    mask = as_mask(grey(*values, np.uint8, "L"), torch.zeros(1, 3, N, N))
    assert mask.max() == (max(values) > 127)
    sentence = (
        "mask is dark everywhere, so nothing is repainted: its lightest value is "
        f"{max(values)} of 255; white is repainted"
    )
    assert [str(each.message) for each in recwarn] == [sentence] * said


def test_the_same_file_twice():
    image = opened(few_bits(2, 1, 2, 1))
    assert upright("x", image, "RGB").tobytes() == upright("x", image, "RGB").tobytes()


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few hundred bytes that claims to be that large."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b"")


def test_an_image_with_too_many_pixels_is_refused_with_their_number(tmp_path):
    with pytest.raises(ValueError) as caught, open_image(bomb(20_000, 20_000), "big.png"):  # noqa: PT011
        pass
    said = str(caught.value)
    assert said == "big.png has 400,000,000 pixels; an image may have at most 178,956,970"
    Image.fromarray(halves(RED, TEAL)).save(tmp_path / "good.png")
    (tmp_path / "big.png").write_bytes(bomb(20_000, 20_000))
    rows = [{"file_name": name, "text": "x"} for name in ("big.png", "good.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="400,000,000 pixels") as warned:
        assert len(read_folder(tmp_path, 32)) == 1
    assert len(warned) == 1
    assert "skipped: it has 400,000,000 pixels" in str(warned[0].message)


def test_a_photo_between_pillow_s_warning_and_its_limit_is_opened_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_image(bomb(10_000, 10_000), "photo.png") as image:
            assert image.size == (10_000, 10_000)


def test_programs_in_the_place_of_images_are_not_run():
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(ValueError, match="is not an image that can be read: its content is not"):
        open_image(script, "one.jpg").__enter__()
