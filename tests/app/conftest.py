"""Small published folders, written by diffusers anew for each module of tests."""

import shutil
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Stable Diffusion 1, to read only."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_diffusers().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return shutil.copytree(published, tmp_path / "model")


@pytest.fixture(scope="module")
def pipes() -> dict[str, DiffusionPipeline]:
    """A small pipeline of each family."""
    return {"sd1": tiny_diffusers(), "sd2": tiny_sd2(), "sdxl": tiny_sdxl()}


@pytest.fixture(scope="module")
def families(
    pipes: dict[str, DiffusionPipeline], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Their folders, to read only."""
    folders = {}
    for name, pipe in pipes.items():
        folders[name] = tmp_path_factory.mktemp(name)
        pipe.save_pretrained(folders[name])
    return folders
