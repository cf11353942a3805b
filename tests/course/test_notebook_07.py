"""Notebook 07: its schedule is the finished one, a slip in it is noticed, and what it says of
schedules holds whatever the model's weights."""

import ast
import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sdlearn
from sdlearn.course import answer_or_solution, check, figures, solution
from sdlearn.course.grading.compare import Different, same
from sdlearn.schedule import Point

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "07-noise-schedule.ipynb"
PARTS = ("make_betas", "end_in_noise", "spaced", "NoiseSchedule")
TYPED = {"alphabar_table": "07.1", "add_noise": "07.2", "latest_time": "07.3", "shifted": "07.4"}
KINDS = ("scaled_linear", "linear", "cosine")
TIMES = torch.arange(1000)
PUBLISHED = sdlearn.NoiseSchedule()
LINEAR = sdlearn.NoiseSchedule(beta_start=1e-4, beta_end=0.02, kind="linear")
COSINE = sdlearn.NoiseSchedule(kind="cosine")


@pytest.fixture(scope="module")
def cells() -> dict[str, str]:
    """The code cells, by id."""
    found = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in found if cell["cell_type"] == "code"}


@pytest.fixture
def built(cells):
    """What the notebook defines, with a piece of its text replaced or none.

    The learner types four functions; the notebook goes on with the solutions.
    """

    def built(old: str = "", new: str = "") -> dict:
        names = {"torch": torch, "math": math, "Point": Point, "Tensor": Tensor}
        texts = [solution(number).text for number in TYPED.values()]
        for name, source in cells.items():
            if not name.startswith("exercise-"):
                nodes = ast.parse(source).body
                texts += [ast.unparse(n) for n in nodes if getattr(n, "name", "") in PARTS]
        assert not old or any(old in text for text in texts), f"{old!r} is not in the notebook"
        for text in texts:
            exec(text.replace(old, new) if old else text, names)
        return names

    return built


def compared(names: dict) -> None:
    mine = names["NoiseSchedule"]
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
        same(mine().timesteps, PUBLISHED.timesteps, steps, spacing, 0)
        same(mine().path, PUBLISHED.path, 5 * steps, spacing)
    for n, first, last in ((1000, 0.00085, 0.012), (7, 0.01, 0.3)):
        theirs = sdlearn.NoiseSchedule(num_steps=n, beta_start=first, beta_end=last)
        table = names["alphabar_table"](n, first, last)
        same(lambda table=table: table, lambda theirs=theirs: theirs.alphas_cumprod)
    rng = torch.Generator().manual_seed(0)
    z_0, eps = torch.randn(2, 3, 4, 5, 6, generator=rng).double().unbind()
    t = torch.tensor([0, 500, 999])
    alpha, sigma = (x[:, None, None, None] for x in PUBLISHED.at(t))
    noisy = names["add_noise"](z_0, eps, t, PUBLISHED.alphas_cumprod)
    same(lambda: noisy, lambda: alpha * z_0 + sigma * eps)
    for schedule, decibels in product((PUBLISHED, COSINE), (0.0, -6.0, 10.0)):
        last = names["latest_time"](decibels, schedule.alphas_cumprod)
        level = 10 * schedule.snr(torch.tensor([last, last + 1])).log10()
        assert level[0] >= decibels > level[1]
    for k in (1, 2, 8):
        table = names["shifted"](LINEAR.alphas_cumprod, k)
        ratio = table / (1 - table)
        same(lambda ratio=ratio: ratio, lambda k=k: LINEAR.snr(TIMES) / k**2, tolerance=1e-9)


def test_what_it_builds_is_the_finished_schedule(built):
    compared(built())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5 if kind == 'scaled_linear'", "1.0 if kind == 'scaled_linear'"),
        ("** (1 / power)", "** (1.001 / power)"),
        ("math.pi / 2) ** 2", "math.pi / 2)"),
        ("0.008", "0.009"),
        ("max=0.999", "max=0.99"),
        ("share[1:] / share[:-1]", "share[:-1] / share[1:]"),
        ("torch.cumprod(1 - self.betas", "torch.cumprod(self.betas"),
        ("torch.cumprod", "torch.cumsum"),
        ("if zero_terminal_snr", "if not zero_terminal_snr"),
        ("alpha[0] / (alpha[0] - alpha[-1])) ** 2", "alpha[0] / (alpha[0] - alpha[-1]))"),
        ("(alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])", "alpha - alpha[-1]"),
        ("return (alphabar.sqrt(), (1 - alphabar).sqrt())", "return (alphabar, 1 - alphabar)"),
        ("(alpha / sigma) ** 2", "alpha / sigma"),
        ("- 1 for i in range(steps)]", "for i in range(steps)]"),
        ("round(num_steps - i * num_steps / steps)", "int(num_steps - i * num_steps / steps)"),
        ("reversed(range(steps))", "range(steps)"),
        ("offset + i * stride", "1 + i * stride"),
        ("num_steps - 1, steps", "num_steps, steps"),
        ("even.flip(0)", "even"),
        ("0.0, *self.at(0)", "0.0, *self.at(1)"),
        ("[*points, Point", "[Point"),
        ("1 - roots**2", "1 - roots"),
        ("beta_start**0.5, beta_end**0.5", "beta_start, beta_end"),
        ("alphabar.sqrt() * z_0", "alphabar * z_0"),
        (".sum()) - 1", ".sum())"),
        ("/ k**2", "/ k"),
    ],
)
def test_a_slip_is_noticed(built, old, new):
    with pytest.raises((AssertionError, Different, IndexError, TypeError, ValueError)):
        compared(built(old, new))


@pytest.fixture
def run(cells):
    """Run cells that need no model, each with a change to its text or none."""

    def run(*ids: str, change: tuple[str, str] = ("", "")) -> dict:
        rng = torch.Generator().manual_seed(0)
        names = {
            "torch": torch, "math": math, "F": F, "Tensor": Tensor, "Point": Point,
            "sdlearn": sdlearn, "figures": figures, "check": check, "schedule": PUBLISHED,
            "answer_or_solution": answer_or_solution,
            "randn": lambda *shape: torch.randn(*shape, generator=rng),
        }  # fmt: skip
        names["z_0"] = names["randn"](1, 4, 8, 8)
        for name, number in TYPED.items():
            exec(solution(number).text.replace(*change), names)
            assert name in names
        assert not change[0] or any(change[0] in cells[one] for one in ids)
        for one in ids:
            exec(compile(cells[one].replace(*change), one, "exec"), names)
        return names

    return run


SIMULATED = ("roots", "roots-table", "simulate", "simulate-table", "snr", "snr-table")


def test_its_simulations_and_comparisons_hold_for_any_latent(run):
    names = run(*SIMULATED)
    assert names["half"] == 353
    names = run("simulate", "kinds")
    blind = {name: names["latest_time"](-17.8, table) for name, table in names["tables"].items()}
    assert blind["linear"] < 650 < 850 < min(blind["scaled linear"], blind["cosine"])


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        (("z + b**0.5 * eps,\n}", "z + b * eps,\n}"), SIMULATED),
        (("z + b**0.5 * randn(*z.shape)", "z + b**0.55 * randn(*z.shape)"), SIMULATED),
        (("(1 - b) ** 0.5 * z + b**0.5 * randn", "(1 - b) * z + b**0.5 * randn"), SIMULATED),
    ],
)
def test_its_own_checks_notice_a_mistake(run, change, ids):
    with pytest.raises(AssertionError):
        run(*ids, change=change)


def test_which_schedule_falls_first():
    """As the words under the curves have it."""
    linear, cosine, published = (s.alphas_cumprod for s in (LINEAR, COSINE, PUBLISHED))
    assert (linear[:100] > published[:100]).all()
    assert (linear[200:900] < published[200:900]).all()
    assert (cosine[:900] > torch.maximum(published, linear)[:900]).all()
    assert cosine[-1] < linear[-1] < 0.01 * published[-1]
    assert 90 < published[-1] / linear[-1] < 130  # 100 times as much signal


def test_the_numbers_of_section_6_follow_from_the_table():
    names: dict = {}
    exec(f"import torch\nfrom torch import Tensor\n{solution('07.3').text}", names)
    latest, table = names["latest_time"], PUBLISHED.alphas_cumprod
    level = 10 * PUBLISHED.snr(181).log10().item()
    eight = 20 * math.log10(8)
    assert (latest(level + eight, table), latest(level - eight, table)) == (4, 756)
    at_700 = 10 * PUBLISHED.snr(700).log10().item()
    shifted = [latest(at_700 - 20 * math.log10(k), table) for k in (1, 2, 4)]
    assert shifted == [700, 856, 983]


def test_the_published_systems_are_as_it_says():
    said = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    (cell,) = [cell for cell in said if cell["id"] == "real-table"]
    assert "nbval-check-output" in cell["metadata"]["tags"]
    specs = sdlearn.SPECS
    assert {n for n in specs if specs[n].predicts == "velocity"} & {"sd2.0", "sd2.1"} == {
        "sd2.0",
        "sd2.1",
    }
    for name in ("sd1.5", "sd2.0", "sd2.1-base", "sd2.1", "sdxl"):
        spec = specs[name]
        assert f"{spec.schedule.alphas_cumprod[-1]:.5f}" == "0.00466"
        path = spec.schedule.path(spec.steps, spec.spacing, spec.final_sigma, spec.steps_offset)
        assert path[0].t == 981
