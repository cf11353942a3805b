"""A folder of your own images against a folder of real ones: `sdlearn evaluate --images --real`.

The features are Inception's if a library has stored its weights on this machine. Otherwise they are
the judge's, which are for storybook pages only. The result says which were used.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from sdlearn.evaluation.features import FeatureNetwork, image_features, installed_inception
from sdlearn.evaluation.image_sets import FEWEST, set_scores
from sdlearn.evaluation.judge import Judge, load_judge
from sdlearn.evaluation.tables import Figures, folders_table
from sdlearn.storybook.folder_captions import image_files
from sdlearn.utils.atomic_files import user_path, write_json
from sdlearn.utils.image_files import open_image, upright

BATCH = 32


def evaluate_folders(args: argparse.Namespace) -> int:
    """Measure the images of a folder against those of another, and print and write the results.

    Args:
        args: From `sdlearn.cli.evaluate.add_arguments`, with images and real.

    Returns:
        The exit code.

    Raises:
        ValueError: If a folder has too few images, or an image cannot be read.
        OSError: If a folder is missing, or Inception is missing although it was asked for.
    """
    folders = {"--images": user_path(args.images), "--real": user_path(args.real)}
    files = {option: files_of(folder, option) for option, folder in folders.items()}
    network, why = feature_network(args.features)
    features = {option: folder_features(network, row) for option, row in files.items()}
    scores = set_scores(features["--real"], features["--images"])
    figures: Figures = {
        "images": str(folders["--images"]),
        "real": str(folders["--real"]),
        "real_images": len(files["--real"]),
        "features": network.name,
        "without_inception": why,
        "scores": scores,
    }
    print(folders_table(figures))
    if args.out:
        write_json(args.out, figures)
        print(args.out)
    return 0


def feature_network(name: str | None) -> tuple[FeatureNetwork, str | None]:
    """Return the network "inception" or "judge"; None takes Inception if it is installed.

    Returns:
        The network, and the reason if it is the judge without having been asked for.

    Raises:
        OSError: If Inception was asked for and is not installed.
        ImportError: If it was asked for, and its library cannot be imported.
        ValueError: If its weights cannot be read.
    """
    why = None
    if name != "judge":
        try:
            return installed_inception(), None
        except (FileNotFoundError, ImportError) as error:
            if name == "inception":
                raise
            why = str(error)
    return judge_network(load_judge()), why


def judge_network(judge: Judge) -> FeatureNetwork:
    """Return the judge as a feature network."""
    return FeatureNetwork(
        "the judge, which knows storybook pages only", judge.config.size, judge.embed
    )


def files_of(folder: Path, name: str) -> list[Path]:
    """Return the image files of a folder and of the folders in it, sorted.

    Args:
        folder: The folder.
        name: What the messages call it.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it has fewer than FEWEST images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name} is {folder}, which is not a folder; accepted: a folder of images"
        )
    files = sorted(image_files(folder))
    if len(files) < FEWEST:
        raise ValueError(f"{name} is {folder} with {len(files)} images; accepted: {FEWEST} or more")
    return files


def folder_features(network: FeatureNetwork, files: Sequence[Path]) -> Tensor:
    """Return the features of image files, (n, d), reading BATCH files at a time."""
    rows = []
    with tqdm(total=len(files), desc="features", unit="image") as bar:
        for first in range(0, len(files), BATCH):
            images = [read_image(file) for file in files[first : first + BATCH]]
            rows.append(image_features(network, images, BATCH))
            bar.update(len(images))
    return torch.cat(rows)


def read_image(file: Path) -> Image.Image:
    """Read an image as upright RGB; ValueError with its name if it cannot be read."""
    with open_image(file, str(file)) as opened:
        return upright(str(file), opened, "RGB")
