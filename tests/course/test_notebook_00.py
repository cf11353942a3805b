"""Notebook 00: its loop makes the library's image for any weights, and its denoiser learns.

nbval runs the whole with the shipped model. Here the cells up to the comparison run with a tiny
random model, so that they cannot depend on the shipped weights.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sdlearn
from sdlearn.course import figures, solution

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "00-the-whole-picture.ipynb"
TOY = ("toy-data", "toy-model", "toy-train", "toy-ideal", "toy-sample")
# They assert what the shipped weights do.
SHIPPED = ("page-figure", "forward-figure", "first-figure")


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def run(cells, tiny_storybook, monkeypatch, tmp_path):
    """Run the code cells up to the one of this id, in an empty folder; returns what they define."""
    monkeypatch.setattr(sdlearn.StableDiffusion, "storybook", lambda **_: tiny_storybook)
    monkeypatch.setattr(figures, "show", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)

    def run(last: str, change: tuple[str, str] = ("", "")) -> dict:
        names: dict = {}
        for cell in cells:
            source = cell["source"]
            if cell["id"] == "exercise-1-use":  # the learner's answer, with a slip
                source = solution("00.1").text.replace(*change)
            if cell["id"] not in SHIPPED:
                exec(compile(source.replace(*change), cell["id"], "exec"), names)
            if cell["id"] == last:
                return names
        raise AssertionError(f"the notebook has no cell {last!r}")

    return run


def test_its_loop_makes_the_library_s_image_with_any_weights(run, tmp_path):
    names = run("same")
    sd = names["sd"]
    settings = {"guidance_scale": names["scale"], "seed": names["seed"], "progress": False}
    expected = sd.text_to_image(names["prompt"], **settings)[0]
    assert np.array_equal(np.array(names["goal"]), np.array(expected))
    assert np.abs(np.array(names["image"], int) - np.array(expected, int)).max() <= 1
    assert len(names["latents"]) == len(names["estimates"]) + 1 == sd.spec.steps + 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        ("eps_empty + scale *", "eps_text + scale *"),
        ("there.sigma * eps", "here.sigma * eps"),
        ("(z - here.sigma * eps) / here.alpha", "z - here.sigma * eps"),
        ("there, text, empty, scale)\n\n", "there, empty, text, scale)\n\n"),
        ("* 127.5)", "* 125)"),
    ],
)
def test_its_comparison_notices_a_wrong_loop(run, change):
    with pytest.raises(AssertionError):
        run("same", change)


def test_the_widget_keeps_the_learner_s_prompt(cells):
    """Its own cell alone drives it."""
    ids = [cell["id"] for cell in cells]
    assert not any("painter" in cell["source"] for cell in cells[ids.index("widget") + 1 :])


def test_embeddings_before_a_changed_word_do_not_move(run):
    names = run("causal")
    night = names["tokens"].index("night</w>")
    assert names["moved"][:night].max() < 1e-5 < 1e-2 < names["moved"][night:].min()


def test_its_denoiser_learns(cells):
    """A quarter of the training lowers the loss and moves points into the cat."""
    names: dict = {"sd": sdlearn.StableDiffusion.storybook(device="cpu")}
    names["path"] = names["sd"].path()
    by_id = {cell["id"]: cell["source"] for cell in cells}
    exec(by_id["setup"], names)
    for number in ("00.1", "00.2", "00.3", "00.4"):
        exec(solution(number).text, names)
    for name in TOY:
        source = by_id[name].replace("steps = Denoiser(), 3000", "steps = Denoiser(), 1000")
        exec(compile(source, name, "exec"), names)
    assert np.mean(names["losses"][-100:]) < 0.42 < 0.5 < np.mean(names["losses"][:20])
    assert 0.25 < names["best"] < names["learned"] < 0.36
    cat = names["cat_points"]
    distances = (torch.cdist(names["cats"][k], cat).amin(dim=1) for k in (0, -1))
    first, last = ((distance < 0.05).float().mean().item() for distance in distances)
    assert first < 0.65 < 0.8 < last
