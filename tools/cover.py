"""Make assets/cover.png, the image at the top of the README: python tools/cover.py

It shows eight captions like those of the test split, with seeds from 0 on. No image is selected.
"""

from pathlib import Path
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

import sdlearn

CAPTIONS = [
    "a red cat to the left of a blue house on the sand at night",
    "a yellow star above a green tree in the snow at dusk",
    "a striped purple balloon over a pink boat at sea at dawn",
    "an orange car on the left and a black mushroom on the right",
    "a cheering person in blue in a meadow on a sunny day",
    "two pink fish on the water under the stars",
    "a green snail to the right of a red umbrella on the road",
    "a blue rocket on the grass under grey clouds",
]
SIDE, GAP, TEXT = 256, 16, 66  # in pixels: side of an image, gap, height of a caption
COLUMNS = 4


def main() -> None:
    """Generate the images and write the file."""
    pictures = sdlearn.StableDiffusion.storybook().text_to_image(CAPTIONS, seed=0)
    rows = -(-len(CAPTIONS) // COLUMNS)
    size = (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + TEXT + GAP) + GAP)
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(17)
    for k, (caption, picture) in enumerate(zip(CAPTIONS, pictures, strict=True)):
        left = GAP + k % COLUMNS * (SIDE + GAP)
        top = GAP + k // COLUMNS * (SIDE + TEXT + GAP)
        page.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
        text = "\n".join(wrap(caption, 32))
        draw.multiline_text((left, top + SIDE + 6), text, fill="#222222", font=font)
    out = Path(__file__).resolve().parent.parent / "assets" / "cover.png"
    out.parent.mkdir(exist_ok=True)
    page.save(out, optimize=True)
    print(out.relative_to(out.parent.parent))


if __name__ == "__main__":
    main()
