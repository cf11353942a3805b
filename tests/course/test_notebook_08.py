"""Notebook 08: its parts are the finished ones, its floor is the floor, and a run goes on."""

import ast
import json
import math
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sdlearn
from sdlearn.course.grading.compare import Different, same

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "08-training-loop.ipynb"
SCHEDULE = sdlearn.NoiseSchedule()
TRAINING = sdlearn.training


@pytest.fixture(scope="module")
def cells() -> dict[str, str]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}


@pytest.fixture
def taken(cells):
    """The functions and classes of some cells, with a change to their code or none."""

    def taken(*ids: str, change: tuple[str, str] = ("", ""), **known) -> dict:
        names = {
            "torch": torch, "F": F, "nn": nn, "math": math, "deepcopy": deepcopy,
            "sdlearn": sdlearn, "schedule": SCHEDULE, **known,
        }  # fmt: skip
        text = "\n".join(
            ast.unparse(node)
            for cell in ids
            for node in ast.parse(cells[cell]).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        )
        assert change[0] in text
        exec(text.replace(*change), names)
        return names

    return taken


def normal(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def network(z, t, context):
    return torch.tanh(z + context.mean(dim=(1, 2)).view(-1, 1, 1, 1) + t.view(-1, 1, 1, 1) / 999)


INPUTS = (
    normal(3, 4, 5, 6),
    torch.tensor([0, 437, 999]),
    normal(3, 4, 5, 6, seed=1),
    normal(3, 7, 2),
)
OPTIONS = [
    ("noise", None),
    ("velocity", None),
    ("noise", 5.0),
    ("velocity", 5.0),
    ("velocity", 0.1),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_its_loss_is_the_finished_one(taken, options):
    loss = taken("min-snr", "loss")["diffusion_loss"]
    same(loss, TRAINING.diffusion_loss, network, *INPUTS, SCHEDULE, *options)


@pytest.mark.parametrize(
    "change",
    [
        ("alpha * eps - sigma * z_0", "sigma * z_0 - alpha * eps"),
        ("alpha * eps - sigma * z_0", "sigma * eps - alpha * z_0"),
        ("alpha * z_0 + sigma * eps", "sigma * z_0 + alpha * eps"),
        ("view(-1, 1, 1, 1)", "view(-1, 1, 1, 1)[:1]"),
        ("(prediction - target).square()", "(prediction - target).abs()"),
        ("dim=(1, 2, 3)", "dim=(2, 3)"),
        ("(alpha / sigma).square()", "(alpha / sigma)"),
        ("clamp(max=gamma)", "clamp(min=gamma)"),
        ("snr + 1", "snr"),
    ],
)
def test_a_wrong_loss_is_noticed(taken, change):
    wrong = taken("min-snr", "loss", change=change)["diffusion_loss"]
    with pytest.raises((Different, RuntimeError)):
        same(wrong, TRAINING.diffusion_loss, network, *INPUTS, SCHEDULE, "velocity", 5.0)


def rates(learning_rate):
    return torch.tensor([learning_rate(k, 50, 0.3, 7) for k in range(60)], dtype=torch.float64)


def test_its_learning_rate_is_the_finished_one(taken):
    same(lambda: rates(taken("rate")["learning_rate"]), lambda: rates(TRAINING.learning_rate))


@pytest.mark.parametrize(
    "change",
    [
        ("(step + 1)", "step"),
        ("step - warmup", "step"),
        ("min(1.0, ", "max(1.0, "),
        ("1 + math.cos", "1 - math.cos"),
        ("floor=0.01", "floor=0.0"),
    ],
)
def test_a_wrong_learning_rate_is_noticed(taken, change):
    wrong = taken("rate", change=change)["learning_rate"]
    with pytest.raises(Different):
        same(lambda: rates(wrong), lambda: rates(TRAINING.learning_rate))


@pytest.mark.parametrize(
    ("cell", "change"),
    [
        ("update", ("optimizer.zero_grad(set_to_none=True)", "pass")),
        ("update", ("norm = nn.utils.clip_grad_norm_(parameters, clip)", "norm = torch.ones(())")),
        ("update", ("clip=1.0", "clip=0.1")),
        ("update", ("group['lr'] = lr", "group['lr'] = 2 * lr")),
        ("ema", ("1 - decay", "decay")),
        ("ema", ("(1 + step) / (10 + step)", "1")),
        ("ema", ("(1 + step) / (10 + step)", "(2 + step) / (11 + step)")),
        ("ema", ("deepcopy(network)", "network")),
    ],
)
def test_its_update_and_average_are_the_finished_ones_and_slips_are_noticed(taken, cell, change):
    right = taken("rate", "update", "ema")
    practise = right["practise"]

    def theirs():
        return practise(TRAINING.update, TRAINING.EMA)

    same(lambda: practise(right["update"], right["EMA"]), theirs)
    wrong = taken("rate", cell, change=change)
    parts = {**right, **{name: wrong[name] for name in wrong.keys() & {"update", "EMA"}}}
    with pytest.raises((Different, RuntimeError)):
        same(lambda: practise(parts["update"], parts["EMA"]), theirs)


# --------------------------------------------------------------------------- the world of clusters

WORLD = {
    "places": torch.tensor([-1.2, 0.0, 1.5], dtype=torch.float64),
    "odds": torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    "spread": 0.1,
}


@pytest.fixture
def world(taken):
    return taken("floor", normal=normal, **WORLD)


@pytest.mark.parametrize("t", [0, 30, 300, 999])
def test_the_best_guess_is_the_mean_of_what_may_have_been_mixed(world, t):
    """By brute force over a fine grid of z_0: E[eps | z_t]."""
    alpha, sigma = SCHEDULE.at(t)
    z_t = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
    z_0 = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    bells = torch.exp(-((z_0[:, None] - WORLD["places"]) ** 2) / (2 * 0.1**2))
    prior = (WORLD["odds"] * bells).sum(-1)
    eps = (z_t[:, None] - alpha * z_0) / sigma
    weights = prior * torch.exp(-(eps**2) / 2)
    mean = (weights * eps).sum(-1) / weights.sum(-1)
    assert torch.allclose(world["best_guess"](z_t, alpha, sigma), mean, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("t", [0, 30, 300, 999])
def test_the_floor_is_the_error_of_the_best_guess(world, t):
    rng = torch.Generator().manual_seed(0)
    n = 400_000
    chosen = torch.multinomial(WORLD["odds"], n, True, generator=rng)
    z_0 = WORLD["places"][chosen] + 0.1 * normal(n, seed=2)
    eps = normal(n, seed=1)
    alpha, sigma = SCHEDULE.at(t)
    guess = world["best_guess"](alpha * z_0 + sigma * eps, alpha, sigma)
    assert world["floor"](t) == pytest.approx(((eps - guess) ** 2).mean().item(), abs=0.01)


def test_no_cluster_at_all_has_the_floor_of_a_single_normal_distribution(taken):
    one = torch.zeros(1, dtype=torch.float64)
    world = taken("floor", normal=normal, places=one, odds=one + 1, spread=0.5)
    for t in (0, 100, 999):
        alpha, sigma = SCHEDULE.at(t)
        exact = alpha**2 * 0.25 / (alpha**2 * 0.25 + sigma**2)
        assert world["floor"](t) == pytest.approx(exact.item(), abs=1e-6)


@pytest.mark.parametrize("t", [1, 10, 500, 999])
def test_the_divergence_is_that_of_two_normal_distributions(taken, t):
    """Against torch.distributions, from the joint distribution of z_s and z_t given z_0."""
    z_t, z_0, guess = normal(5), normal(5, seed=1), normal(5, seed=2)
    (alpha, sigma), (alpha_s, sigma_s) = SCHEDULE.at(t), SCHEDULE.at(t - 1)

    def step(x):
        covariance = alpha / alpha_s * sigma_s**2
        mean = alpha_s * x + covariance / sigma**2 * (z_t - alpha * x)
        return torch.distributions.Normal(mean, (sigma_s**2 - covariance**2 / sigma**2).sqrt())

    exact = torch.distributions.kl_divergence(step(z_0), step(guess)).sum()
    mine = taken("bound")["divergence"](t, t - 1, z_t, z_0, guess)
    assert mine.item() == pytest.approx(exact.item(), rel=1e-9)


# ---------------------------------------------------------------------- what is measured of the run


@pytest.mark.parametrize("t", [0, 20, 300, 980])
def test_the_dice_set_the_floor_of_a_page_that_is_known(taken, t):
    """By simulation: z_0 is the dice alone, and the best guess is a straight line through 0."""
    s2, n = torch.tensor([0.002, 0.3], dtype=torch.float64), 400_000
    alpha, sigma = SCHEDULE.at(t)
    eps, z_0 = normal(n, 2), s2.sqrt() * normal(n, 2, seed=1)
    z_t = alpha * z_0 + sigma * eps
    slope = (z_t * eps).mean(0) / (z_t**2).mean(0)
    exact = ((eps - slope * z_t) ** 2).mean().item()
    assert taken("validate", s2=s2)["from_dice"](t) == pytest.approx(exact, abs=0.005)


PAGES = [("day", "sea", "tree", "red"), ("day", "snow", "tree", "blue"), ("night", *"abc")]


class Reader:
    """A judge of pages that are given as four words each, or three for a page without a thing."""

    def read(self, pictures):
        things = [[(*page[2:], "more")] if len(page) == 4 else [] for page in pictures]
        return [
            SimpleNamespace(sky=page[0], ground=page[1], things=found)
            for page, found in zip(pictures, things, strict=True)
        ]


@pytest.fixture
def measured(taken):
    return taken("measure", judge=Reader(), np=np)


def test_what_is_right_is_counted_by_fact_and_by_page(measured):
    drawn = [PAGES[0], ("day", "snow", "house", "blue"), ("night", "a", "-")]
    assert measured["right"](PAGES, PAGES).tolist() == [1] * 5
    assert measured["right"](drawn, PAGES) == pytest.approx([1, 1, 1 / 3, 2 / 3, 1 / 3])
    assert measured["right"](PAGES, PAGES, 1) == pytest.approx([1 / 3, 0, 1 / 3, 0, 0])


@pytest.mark.parametrize("times", [1, 3])
def test_chance_holds_every_picture_against_the_captions_of_all_others(measured, times):
    expected = [1 / 3, 0, 1 / 3, 0, 0]
    assert measured["chance"](PAGES * times, PAGES * times) == pytest.approx(expected)


# ------------------------------------------------------------------------------------------ the run


@pytest.fixture
def small(cells, taken):
    """The loop of the notebook on random latents, with a network of a few hundred weights."""

    def small(change: tuple[str, str] = ("", "")):
        known = {
            "mean": normal(12, 4, 8, 8).float(), "std": 0.1 * torch.ones(12, 4, 8, 8),
            "states": normal(5, 6, 8).float(), "EMPTY": 4, "caption_of": torch.arange(12) % 4,
            "dataclass": __import__("dataclasses").dataclass, "os": __import__("os"),
        }  # fmt: skip
        ids = (
            "min-snr",
            "loss",
            "rate",
            "update",
            "ema",
            "batch",
            "loop",
            "resume",
            "resume-table",
        )
        names = taken(*ids, change=change, **known)
        config = sdlearn.UNetConfig(
            block_out_channels=(8,), layers_per_block=1, cross_attention=(True,), num_heads=(2,),
            transformer_depth=(1,), cross_attention_dim=8, norm_num_groups=4, sample_size=8,
        )  # fmt: skip
        names["plan"] = names["Plan"](config, steps=8, size=2, peak=1e-2, warmup=2, decay=0.5)
        return names

    return small


def gone_on(names, folder, leave_out=""):
    """The run in one piece, and one that was killed after four steps."""
    plan, whole, killed = names["plan"], *(names["begin"](names["plan"]) for _ in range(2))
    for k in range(8):
        names["step"](whole, plan, k)
    for k in range(4):
        names["step"](killed, plan, k)
    names["save"](killed, 4, folder)
    again = names["begin"](plan)
    first = names["load"](again, folder, leave_out)
    for k in range(first, first + 4):
        names["step"](again, plan, k)
    pairs = (whole.network, again.network), (whole.average.module, again.average.module)
    return [names["equal"](*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("leave_out", "expected"),
    [
        ("", [True, True]),
        ("optimizer", [False, False]),
        ("average", [True, False]),
        ("step number", [False, False]),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits_if_all_was_saved(
    small, tmp_path, leave_out, expected
):
    assert gone_on(small(), tmp_path, leave_out) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.parametrize(
    "change",
    [
        ("step_generator(plan.seed, k)", "step_generator(plan.seed, torch.seed())"),
        ("run.average.module.state_dict()", "run.network.state_dict()"),
        ("run.optimizer.load_state_dict(state['optimizer'])", "pass"),
    ],
)
def test_what_is_missing_is_noticed(small, tmp_path, change):
    assert not all(gone_on(small(change), tmp_path))


def test_captions_are_dropped_one_by_one_and_as_often_as_planned(small):
    names = small()
    plan = names["Plan"](None, steps=1, size=200, peak=1, warmup=1, decay=0.5, dropout=0.3)
    silent = (names["batch"](plan, 0)[3] == names["states"][4]).all(dim=(1, 2))
    assert 0.2 < silent.double().mean() < 0.4
    assert torch.equal(names["caption_of"], torch.arange(12) % 4)


def test_a_batch_is_a_function_of_its_step(small):
    names = small()
    one, again, other = (names["batch"](names["plan"], k) for k in (3, 3, 4))
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))
