"""Small published folders, written by diffusers, and small runs, anew for each module of tests."""

import shutil
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from sdlearn.cli.main import main
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl
from tests.tiny_runs import TINY


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with a cache beside it, to read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, with checkpoints of its steps 2 and 3, and of its cache."""
    shutil.copytree(whole.parent, tmp_path / "runs")
    return tmp_path / "runs" / "run"


@pytest.fixture
def stopped(run: Path) -> Path:
    """A run that was stopped after two of its three steps."""
    shutil.rmtree(run / "checkpoints" / "step-00000003")
    shutil.rmtree(run / "export")
    return run
