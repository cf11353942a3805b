"""Notebook 07: its schedule is the finished one, a slip in it is noticed, and what it says of
schedules holds whatever the model's weights."""

import ast
import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch

import sdlearn
from sdlearn.course import figures
from sdlearn.course.grading.compare import Different, same
from sdlearn.schedule import Point

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "07-noise-schedule.ipynb"
PARTS = ("make_betas", "end_in_noise", "spaced", "NoiseSchedule")
KINDS = ("scaled_linear", "linear", "cosine")
TIMES = torch.arange(1000)


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    found = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
    return found


@pytest.fixture
def built(cells):
    """The class as the notebook defines it, with a piece of its text replaced or none."""

    def built(old: str = "", new: str = ""):
        names = {"torch": torch, "math": math, "Point": Point}
        replaced = not old
        for cell in cells:
            if cell["cell_type"] == "code":
                for node in ast.parse(cell["source"]).body:
                    if getattr(node, "name", "") in PARTS:
                        text = ast.unparse(node)
                        replaced = replaced or old in text
                        exec(text.replace(old, new) if old else text, names)
        assert replaced, f"{old!r} is not in the notebook's schedule"
        return names["NoiseSchedule"]

    return built


def compared(mine) -> None:
    for kind, zero in product(KINDS, (False, True)):
        for ends in ({}, {"num_steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}):
            options = {"kind": kind, "zero_terminal_snr": zero, **ends}
            own, theirs = mine(**options), sdlearn.NoiseSchedule(**options)
            same(lambda own=own: own.betas, lambda theirs=theirs: theirs.betas)
            same(own.at, theirs.at, TIMES)
            same(own.snr, theirs.snr, TIMES[:-1])
    own, theirs = mine(num_steps=50), sdlearn.NoiseSchedule(num_steps=50)
    same(own.at, theirs.at, TIMES[:50])
    for steps, spacing in product((1, 7, 20), ("leading", "trailing", "linspace")):
        same(own.timesteps, theirs.timesteps, steps, spacing)
        same(mine().timesteps, sdlearn.NoiseSchedule().timesteps, steps, spacing, 0)
        same(mine().path, sdlearn.NoiseSchedule().path, 5 * steps, spacing)


def test_its_schedule_is_the_finished_one(built):
    compared(built())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("beta_start ** 0.5, beta_end ** 0.5", "beta_start, beta_end"),
        ("dtype=torch.float64) ** 2", "dtype=torch.float64)"),
        ("dtype=torch.float64) ** 2", "dtype=torch.float64) ** 2.001"),
        ("math.pi / 2) ** 2", "math.pi / 2)"),
        ("0.008", "0.009"),
        ("max=0.999", "max=0.99"),
        ("share[1:] / share[:-1]", "share[:-1] / share[1:]"),
        ("kind == 'linear'", "kind == 'scaled_linear'"),
        ("torch.cumprod(1 - self.betas", "torch.cumprod(self.betas"),
        ("torch.cumprod", "torch.cumsum"),
        ("if zero_terminal_snr", "if not zero_terminal_snr"),
        ("alpha[0] / (alpha[0] - alpha[-1])) ** 2", "alpha[0] / (alpha[0] - alpha[-1]))"),
        ("(alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])", "alpha - alpha[-1]"),
        ("(1 - alphabar).sqrt())", "1 - alphabar.sqrt())"),
        ("return (alphabar.sqrt(),", "return (alphabar,"),
        ("(alpha / sigma) ** 2", "alpha / sigma"),
        ("- 1 for i in range(steps)]", "for i in range(steps)]"),
        ("round(num_steps - i * num_steps / steps)", "int(num_steps - i * num_steps / steps)"),
        ("reversed(range(steps))", "range(steps)"),
        ("offset + i * stride", "1 + i * stride"),
        ("num_steps - 1, steps", "num_steps, steps"),
        ("even.flip(0)", "even"),
        ("0.0, *self.at(0)", "0.0, *self.at(1)"),
        ("[*points, Point", "[Point"),
    ],
)
def test_a_slip_in_its_schedule_is_noticed(built, old, new):
    with pytest.raises((Different, IndexError, TypeError, ValueError)):
        compared(built(old, new))


@pytest.fixture
def run(cells, tiny_storybook, monkeypatch, tmp_path):
    """Run all code cells up to the one of this id, with a model of random weights."""
    monkeypatch.setattr(sdlearn.StableDiffusion, "storybook", lambda **_: tiny_storybook)
    monkeypatch.setattr(figures, "show", lambda *_, **__: None)
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


def test_what_it_says_holds_for_any_weights(run, tmp_path):
    names = run("relatives")
    assert names["variances"]["mix without roots"][-1] < 0.1
    assert names["same_time"] == {500: {1: 500, 2: 692, 4: 849}, 700: {1: 700, 2: 856, 4: 983}}
    assert names["apart"]["your schedule"] <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "last"),
    [
        (("z + b**0.5 * eps,\n}", "z + b * eps,\n}"), "roots"),
        (("z + b**0.5 * randn(*z.shape)", "z + b**0.52 * randn(*z.shape)"), "closed"),
        (("alphabar = torch.cumprod", "alphabar = 0.98 * torch.cumprod"), "closed"),
        (("sqrt() * distance / 2)", "sqrt() * distance * 2)"), "observer"),
        (("F.avg_pool2d(randn(1, 1, 800, 800), side)", "randn(9, 9)"), "average"),
        (("offset + i * stride", "i * stride"), "class-check"),
        (("(alpha / sigma) ** 2", "alpha / sigma"), "class-check"),
    ],
)
def test_its_own_comparisons_notice_a_mistake(run, change, last):
    with pytest.raises(AssertionError):
        run(last, change)


def test_which_schedule_falls_first():
    """As the words under the curves have it."""
    linear = sdlearn.NoiseSchedule(beta_start=1e-4, beta_end=0.02, kind="linear").alphas_cumprod
    cosine = sdlearn.NoiseSchedule(kind="cosine").alphas_cumprod
    published = sdlearn.NoiseSchedule().alphas_cumprod
    rootless = sdlearn.NoiseSchedule(kind="linear").alphas_cumprod
    assert (linear[:100] > torch.maximum(published, rootless)[:100]).all()
    assert (linear[200:900] < torch.minimum(published, rootless)[200:900]).all()
    assert (rootless[1:-1] < published[1:-1]).all()
    assert (cosine[:900] > torch.maximum(published, linear)[:900]).all()
    assert cosine[-1] < linear[-1] < 0.01 * published[-1]


def test_the_table_of_published_systems_is_that_of_the_specifications(cells):
    (cell,) = [cell for cell in cells if cell["id"] == "real"]
    printed = "".join("".join(out["text"]) for out in cell["outputs"])
    rows = [line.split() for line in printed.splitlines()[1:-1]]
    assert {row[0]: row[1] for row in rows} == {
        "sd1.4": "noise",
        "sd1.5": "noise",
        "sd2.0": "velocity",
        "sd2.1-base": "noise",
        "sd2.1": "velocity",
        "sdxl": "noise",
        "storybook": "noise",
    }
    assert {row[0]: (row[2], row[3]) for row in rows if row[0] in ("sd1.5", "sd2.1", "sdxl")} == {
        "sd1.5": ("512", "64"),
        "sd2.1": ("768", "96"),
        "sdxl": ("1024", "128"),
    }
    assert {row[4] for row in rows} == {"0.00466"}
    assert {row[7] for row in rows if row[0] != "storybook"} == {"981"}
