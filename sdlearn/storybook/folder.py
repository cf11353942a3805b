"""A user's own captioned images: a folder in the imagefolder convention, or with caption files.

my_images/
    metadata.jsonl        {"file_name": "one.jpg", "text": "a red cat on the sand"}
    one.jpg               ... one line of JSON for each image; file_name may contain folders

In place of metadata.jsonl there may be a metadata.csv with the columns file_name and text; or
neither, and beside each image one.jpg a text file one.txt or one.caption with its caption.
"""

import warnings
from pathlib import Path

from PIL import Image, ImageOps

from sdlearn.storybook.folder_captions import captioned_files
from sdlearn.utils.atomic_files import user_path
from sdlearn.utils.image_files import open_image, upright
from sdlearn.utils.validation import LONGEST_SIDE, shown


def read_folder(path: str | Path, size: int) -> list[tuple[Image.Image, str]]:
    """Read the images of a folder and their captions.

    Images are rotated according to their EXIF data, transparent ones are put on white, and all are
    resized to the shorter side and cropped to the centre. The caption is the column `text` (or
    `caption`), or the text file beside the image; see `folder_captions.captioned_files`. An image
    that cannot be read causes a warning and is skipped.

    Args:
        path: The folder.
        size: Side of the images in pixels.

    Returns:
        RGB images of size x size pixels, with their captions.

    Raises:
        FileNotFoundError: If the folder or its captions are missing.
        ValueError: If a caption or a line of the metadata is malformed, a path leads out of the
            folder, or no image can be read.
    """
    if type(size) is not int or not 1 <= size <= LONGEST_SIDE:
        raise ValueError(
            f"size is {shown(size)}; accepted: a whole number of pixels, 1 … {LONGEST_SIDE}"
        )
    folder = user_path(path)
    pairs = []
    for file, text in captioned_files(folder):
        try:
            pairs.append((_read_image(file, size), text))
        except FileNotFoundError:
            warnings.warn(f"{file} is missing and was skipped", stacklevel=2)
        except ValueError as error:
            why = str(error).removeprefix("it is not an image that can be read: ")
            warnings.warn(f"{file} cannot be read as an image and was skipped: {why}", stacklevel=2)
    if not pairs:
        raise ValueError(
            f"{folder} has no image that can be read; accepted: captioned images, as "
            "metadata.jsonl names them"
        )
    return pairs


def _read_image(file: Path, size: int) -> Image.Image:
    """Read one image as RGB, size x size pixels."""
    with open_image(file, "it") as opened:
        image = upright("it", opened, "RGB")
        return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
