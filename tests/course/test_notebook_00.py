"""Notebook 00: what a reader is promised, and that it holds for any weights.

nbval runs it with the shipped model; here its cells run with a tiny random one, so that nothing in
it depends on how good the shipped weights are.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import sdlearn
from sdlearn.course import figures

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "00-the-whole-picture.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return cells


@pytest.fixture
def run(cells, tiny_storybook, monkeypatch, tmp_path):
    """Run the code cells up to the one of this id, in an empty folder; returns what they define."""
    monkeypatch.setattr(sdlearn.StableDiffusion, "storybook", lambda **_: tiny_storybook)
    monkeypatch.chdir(tmp_path)

    def run(last: str, change: tuple[str, str] = ("", "")) -> dict:
        names: dict = {}
        for cell in cells:
            if cell["cell_type"] == "code":
                exec(compile(cell["source"].replace(*change), cell["id"], "exec"), names)
            if cell["id"] == last:
                return names
        raise AssertionError(f"the notebook has no cell {last!r}")

    return run


def test_its_loop_draws_the_library_s_picture_with_any_weights(run, tmp_path):
    names = run("widget-drive")
    sd, painter = names["sd"], names["painter"]
    expected = sd.text_to_image(names["prompt"], seed=names["seed"], progress=False)[0]
    assert np.array_equal(np.array(names["goal"]), np.array(expected))
    assert np.abs(np.array(names["picture"], int) - np.array(expected, int)).max() <= 1
    assert len(names["latents"]) == len(names["estimates"]) + 1 == sd.spec.steps + 1
    drawn = sd.text_to_image(painter.prompt.value, seed=painter.seed.value, progress=False)[0]
    assert np.array_equal(np.array(painter.image), np.array(drawn))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        ("eps_uncond + scale *", "eps_cond + scale *"),
        ("there.sigma * eps", "here.sigma * eps"),
        ("(z - here.sigma * eps) / here.alpha", "z - here.sigma * eps"),
        ("torch.cat([uncond, cond])", "torch.cat([cond, uncond])"),
        ("* 127.5)", "* 125)"),
    ],
)
def test_its_comparison_notices_a_wrong_loop(run, monkeypatch, change):
    monkeypatch.setattr(figures, "show", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        run("same", change)


def test_states_before_a_changed_word_do_not_move(run):
    names = run("causal")
    night = names["tokens"].index("night</w>")
    assert names["moved"][:night].max() < 1e-5 < 1e-2 < names["moved"][night:].min()
