"""Notebook 00: what a reader is promised, and that it holds for any weights.

nbval runs it with the shipped model; here its cells run with a tiny random one, so that nothing in
it depends on how good the shipped weights are.
"""

import json
import re
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


def shown(cell: dict, kind: str) -> list[dict]:
    return [out for out in cell.get("outputs", []) if kind in out.get("data", {})]


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def test_its_loop_draws_the_library_s_picture_with_any_weights(run, tmp_path):
    names = run("widget-drive")
    sd, painter = names["sd"], names["painter"]
    expected = sd.text_to_image(names["prompt"], seed=names["seed"], progress=False)[0]
    assert np.array_equal(np.array(names["goal"]), np.array(expected))
    assert np.abs(np.array(names["picture"], int) - np.array(expected, int)).max() <= 1
    assert len(names["latents"]) == len(names["estimates"]) + 1 == sd.spec.steps + 1
    drawn = sd.text_to_image(painter.prompt.value, seed=painter.seed.value, progress=False)[0]
    assert np.array_equal(np.array(painter.picture), np.array(drawn))
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


def test_it_opens_with_the_card_and_the_question(cells):
    before_code = []
    for cell in cells:
        if cell["cell_type"] == "code":
            break
        before_code.append(cell["source"])
    assert before_code[0].startswith("# 00 · The whole picture")
    for entry in ("You will build", "You need", "Minutes"):
        assert f"| **{entry}** |" in before_code[0]
    assert "?" in before_code[1]


def test_it_ends_with_the_papers(cells):
    papers = cells[-1]["source"].split("## Papers")[1].strip().split("\n- ")
    assert len(papers) >= 5
    assert all("arXiv:" in paper for paper in papers)


def test_every_figure_has_words(cells):
    pictures = 0
    for cell in cells:
        images, folds = shown(cell, "image/png"), shown(cell, "text/html")
        assert len(images) == len(folds), cell["id"]
        for image, fold in zip(images, folds, strict=True):
            alt = image["metadata"]["image/png"]["alt"]
            assert len(alt) > 40
            assert joined(fold["data"]["text/plain"]) == alt
            pictures += 1
    assert pictures >= 10


def test_every_number_in_the_prose_comes_from_a_cell(cells):
    printed = " ".join(
        joined(out.get("text", "")) for cell in cells for out in cell.get("outputs", [])
    )
    known = set(re.findall(r"\d+(?:\.\d+)?", printed))
    for cell in cells:
        if cell["cell_type"] == "markdown":
            prose = cell["source"].split("## Papers")[0]
            prose = re.sub(r"\$[^$]*\$|`[^`]*`|\(https?:[^)]*\)", " ", prose)
            prose = re.sub(r"^#+ \d+ ·|Diffusion \d(\.\d)?|SD \d(\.\d)?", " ", prose, flags=re.M)
            prose = re.sub(r"([Nn]otebook|section) \d+", " ", prose)
            assert set(re.findall(r"\d+(?:\.\d+)?", prose)) <= known, cell["id"]


def test_one_widget_is_stored_with_a_picture_for_readers_without_a_kernel(cells):
    kind = "application/vnd.jupyter.widget-view+json"
    (widget,) = [cell for cell in cells if shown(cell, kind)]
    stored = json.loads(NOTEBOOK.read_text("utf-8"))["metadata"]["widgets"]
    (state,) = (kept["state"] for kept in stored.values())
    assert shown(widget, kind)[0]["data"][kind]["model_id"] in state
    after = cells[cells.index(widget) + 1 :]
    driven = next(cell for cell in after if cell["cell_type"] == "code")
    assert ".click()" in driven["source"]
    assert shown(driven, "image/png")
