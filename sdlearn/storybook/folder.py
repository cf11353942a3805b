"""A user's own captioned images: a folder in the imagefolder convention, or with caption files.

my_images/
    metadata.jsonl        {"file_name": "one.jpg", "text": "a red cat on the sand"}
    one.jpg               ... one line of JSON for each image; file_name may contain folders

In place of metadata.jsonl there may be a metadata.csv with the columns file_name and text; or
neither, and beside each image one.jpg a text file one.txt or one.caption with its caption.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short

from PIL import Image, ImageOps

from sdlearn.storybook.folder_captions import captioned_files
from sdlearn.utils.atomic_files import user_path
from sdlearn.utils.image_files import open_image, upright
from sdlearn.utils.validation import LONGEST_SIDE, shown


def read_folder(path: str | Path, size: int) -> list[tuple[Image.Image, str]]:
    """Read the images of a folder and their captions.

    Images are rotated according to their EXIF data, transparent ones are put on white, and all are
    resized to the shorter side and cropped to the centre. A smaller one is enlarged, with a
    warning. The caption is the column `text` (or
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
    check_side(size)
    folder = user_path(path)
    pairs, small = [], []
    for file, text in captioned_files(folder):
        try:
            image = upright_image(file)
            pairs.append((square(image, size), text))
            if min(image.size) < size:
                small.append(file.name)
        except FileNotFoundError:
            warnings.warn(f"{file} is missing and was skipped", stacklevel=2)
        except ValueError as error:
            warnings.warn(
                f"{file} cannot be read as an image and was skipped: {reason(error)}", stacklevel=2
            )
    if not pairs:
        raise ValueError(
            f"{folder} has no image that can be read; accepted: captioned images, as "
            "metadata.jsonl names them"
        )
    warn_of(f"smaller than {size} pixels", small, folder, "enlarged")
    return pairs


def check_side(size: int) -> None:
    """Check the side of images in pixels.

    Raises:
        ValueError: If it is not a whole number, or out of range.
    """
    if type(size) is not int or not 1 <= size <= LONGEST_SIDE:
        raise ValueError(
            f"size is {shown(size)}; accepted: a whole number of pixels, 1 … {LONGEST_SIDE}"
        )


def upright_image(file: Path | bytes) -> Image.Image:
    """Read one image as RGB, rotated according to its EXIF data, on white.

    Args:
        file: A path, or the bytes of a file.

    Raises:
        FileNotFoundError: If the path is missing.
        ValueError: If it is not an image that can be read; `reason` says why.
    """
    with open_image(file, "it") as opened:
        return upright("it", opened, "RGB")


def reason(error: ValueError) -> str:
    """Why an image cannot be read, from the error of `upright_image`."""
    return str(error).removeprefix("it is not an image that can be read: ")


def square(image: Image.Image, size: int) -> Image.Image:
    """The square in the middle of an image, resized to size x size pixels."""
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def warn_of(what: str, names: Sequence[str], place: object, done: str) -> None:
    """Warn once of the images of a place that are not as they should be; `done` says what was done.

    Args:
        what: Such as "smaller than 64 pixels".
        names: Of these images; there is no warning if there are none.
        place: The folder or shard.
        done: Such as "enlarged".
    """
    if names:
        warnings.warn(
            f"{place} has images {what}, which were {done}: {len(names)} in all, {short(names)}",
            stacklevel=3,
        )
