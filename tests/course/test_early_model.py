"""The early model: small, often wrong, and better with guidance, as its README says."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdlearn.course.early_model import early_model
from sdlearn.evaluation.accuracy import caption_accuracy, prompt_cases, rates
from sdlearn.evaluation.judge import load_judge
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.resources import data_folder


@pytest.fixture(scope="module")
def early() -> StableDiffusion:
    return early_model(StableDiffusion.storybook(device="cpu"))


def test_it_shares_the_frozen_parts_and_has_a_small_unet() -> None:
    sd = StableDiffusion.storybook(device="cpu")
    early = early_model(sd)
    assert early.vae is sd.vae
    assert early.text is sd.text
    small, large = (sum(p.numel() for p in model.unet.parameters()) for model in (early, sd))
    assert 2.8e6 < small < 2.95e6 < large / 3
    assert (early.spec.name, early.spec.resolution) == ("early", sd.spec.resolution)


def test_its_readme_repeats_what_was_measured() -> None:
    folder = data_folder("early")
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["guidance"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    for scale, facts in measured.items():
        right, page = (100 * facts[fact]["rate"] for fact in ("right", "page"))
        assert f"| {scale} | {right:.1f} % | {page:.1f} % |" in text
    assert measured["1"]["right"]["rate"] + 0.2 < measured["3"]["right"]["rate"] < 0.8


def test_guidance_helps_it(early: StableDiffusion) -> None:
    cases, judge = prompt_cases("test", 16), load_judge()
    found = [
        rates(caption_accuracy(early, judge, cases, 1, scale, 10, "ddim", 16))["right"].rate
        for scale in (1.0, 3.0)
    ]
    assert np.diff(found)[0] > 0.1, found


def test_a_missing_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sdlearn.utils.resources.PACKAGE", tmp_path / "sdlearn")
    with pytest.raises(FileNotFoundError, match="'early'"):
        early_model(None)
