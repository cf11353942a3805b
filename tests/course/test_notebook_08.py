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
from torch import Tensor, nn

import sdlearn
from sdlearn.course import solution
from sdlearn.course.grading.compare import Different, same
from sdlearn.storybook import Scene, Thing, render

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "08-training-loop.ipynb"
SCHEDULE = sdlearn.NoiseSchedule()
TRAINING = sdlearn.training


@pytest.fixture(scope="module")
def cells() -> dict[str, str]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}


@pytest.fixture
def taken(cells):
    """The functions and classes of some cells, or the solutions of exercises with these numbers,
    with a change to their code or none."""

    def taken(*ids: str, change: tuple[str, str] = ("", ""), **known) -> dict:
        names = {
            "torch": torch, "F": F, "nn": nn, "math": math, "deepcopy": deepcopy, "Tensor": Tensor,
            "sdlearn": sdlearn, "schedule": SCHEDULE, "randn": normal, **known,
        }  # fmt: skip
        exec("from collections.abc import Callable; from sdlearn import NoiseSchedule", names)
        text = "\n".join(
            ast.unparse(node)
            for cell in ids
            for node in ast.parse(solution(cell).text if "." in cell else cells[cell]).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        )
        assert change[0] in text
        exec(text.replace(*change), names)
        return names

    return taken


def normal(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


INPUTS = (
    normal(3, 4, 5, 6),
    torch.tensor([0, 437, 999]),
    normal(3, 4, 5, 6, seed=1),
    normal(3, 7, 2),
)


def test_its_loss_is_the_finished_one(taken):
    names = taken("08.1", "loss-same")
    loss, network = names["diffusion_loss"], names["any_network"]
    same(loss, TRAINING.diffusion_loss, network, *INPUTS, SCHEDULE)
    alpha, sigma = (x.view(-1, 1, 1, 1) for x in SCHEDULE.at(INPUTS[1]))
    z_t = alpha * INPUTS[0] + sigma * INPUTS[2]
    exact = F.mse_loss(network(z_t, INPUTS[1], INPUTS[3]), INPUTS[2])
    assert torch.allclose(loss(network, *INPUTS, SCHEDULE), exact, rtol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        ("alpha * z_0 + sigma * eps", "sigma * z_0 + alpha * eps"),
        ("alpha * z_0 + sigma * eps", "alpha * z_0 - sigma * eps"),
        ("view(-1, 1, 1, 1)", "view(-1, 1, 1, 1)[:1]"),
        ("schedule.at(t)", "schedule.at((t - 1).clamp(min=0))"),
        ("network(z_t, t, context)", "network(z_0, t, context)"),
        ("network(z_t, t, context)", "network(z_t, t.flip(0), context)"),
        ("prediction - eps", "prediction - z_0"),
        (".square()", ".abs()"),
        (".mean()", ".sum()"),
    ],
)
def test_a_wrong_loss_is_noticed(taken, change):
    names = taken("loss-same", "08.1", change=change)
    with pytest.raises((Different, RuntimeError)):
        same(
            names["diffusion_loss"], TRAINING.diffusion_loss, names["any_network"], *INPUTS,
            SCHEDULE,
        )  # fmt: skip


@pytest.mark.parametrize("predicts", ["noise", "velocity"])
def test_its_weights_are_the_finished_ones_and_slips_are_noticed(taken, predicts):
    snr, theirs = SCHEDULE.snr(torch.arange(1000)), TRAINING.min_snr_weight
    same(taken("min-snr")["min_snr_weight"], theirs, snr, 5.0, predicts)
    for change in (
        ("clamp(max=gamma)", "clamp(min=gamma)"),
        ("snr if predicts == 'noise' else snr + 1", "snr + 1 if predicts == 'noise' else snr"),
    ):
        with pytest.raises(Different):
            same(taken("min-snr", change=change)["min_snr_weight"], theirs, snr, 5.0, predicts)


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
        ("08.2", ("optimizer.zero_grad()", "pass")),
        ("08.2", ("network.parameters(), clip", "network.parameters(), 1e9")),
        ("08.2", ("clip: float=1.0", "clip: float=1e3")),
        ("08.2", ("group['lr'] = lr", "group['lr'] = 2 * lr")),
        ("08.2", ("optimizer.step()", "pass")),
        ("ema", ("1 - decay", "decay")),
        ("ema", ("(1 + step) / (10 + step)", "1")),
        ("ema", ("(1 + step) / (10 + step)", "(2 + step) / (11 + step)")),
        ("ema", ("deepcopy(network)", "network")),
    ],
)
def test_its_step_and_average_are_the_finished_ones_and_slips_are_noticed(taken, cell, change):
    right = taken("rate", "08.1", "08.2", "ema", "ema-same")
    practise = right["practise"]

    def theirs():
        return practise(right["finished_step"], TRAINING.EMA)

    same(lambda: practise(right["training_step"], right["EMA"]), theirs)
    wrong = taken("rate", "08.1", cell, change=change)
    parts = {**right, **{k: wrong[k] for k in wrong.keys() & {"training_step", "EMA"}}}
    with pytest.raises((Different, RuntimeError)):
        same(lambda: practise(parts["training_step"], parts["EMA"]), theirs)


# --------------------------------------------------------------------------------- the toy dataset

TOY = {
    "centres": torch.tensor([-1.2, 0.0, 1.5], dtype=torch.float64),
    "odds": torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    "width": 0.1,
}


@pytest.fixture
def toy(taken):
    return taken("floor", "floor-figure", **TOY)


@pytest.mark.parametrize("t", [0, 30, 300, 999])
def test_the_best_prediction_is_the_mean_of_what_may_have_been_mixed(toy, t):
    """By brute force over a fine grid of z_0: E[eps | z_t]."""
    alpha, sigma = SCHEDULE.at(t)
    z_t = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
    z_0 = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    bells = torch.exp(-((z_0[:, None] - TOY["centres"]) ** 2) / (2 * 0.1**2))
    prior = (TOY["odds"] * bells).sum(-1)
    eps = (z_t[:, None] - alpha * z_0) / sigma
    weights = prior * torch.exp(-(eps**2) / 2)
    mean = (weights * eps).sum(-1) / weights.sum(-1)
    assert torch.allclose(toy["best_noise"](z_t, alpha, sigma), mean, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("t", [0, 30, 300, 999])
def test_the_floor_is_the_error_of_the_best_prediction(toy, t):
    rng = torch.Generator().manual_seed(0)
    n = 400_000
    chosen = torch.multinomial(TOY["odds"], n, True, generator=rng)
    z_0 = TOY["centres"][chosen] + 0.1 * normal(n, seed=2)
    eps = normal(n, seed=1)
    alpha, sigma = SCHEDULE.at(t)
    best = toy["best_noise"](alpha * z_0 + sigma * eps, alpha, sigma)
    assert toy["floor"](t) == pytest.approx(((eps - best) ** 2).mean().item(), abs=0.01)


def test_one_cluster_has_the_floor_of_a_single_normal_distribution(taken):
    one = torch.zeros(1, dtype=torch.float64)
    toy = taken("floor", "floor-figure", centres=one, odds=one + 1, width=0.5)
    for t in (0, 100, 999):
        alpha, sigma = SCHEDULE.at(t)
        exact = alpha**2 * 0.25 / (alpha**2 * 0.25 + sigma**2)
        assert toy["floor"](t) == pytest.approx(exact.item(), abs=1e-6)


@pytest.mark.parametrize("t", [1, 10, 500, 999])
def test_the_divergence_is_that_of_two_normal_distributions(taken, t):
    """Against torch.distributions, from the joint distribution of z_s and z_t given z_0."""
    z_t, z_0, estimate = normal(5), normal(5, seed=1), normal(5, seed=2)
    (alpha, sigma), (alpha_s, sigma_s) = SCHEDULE.at(t), SCHEDULE.at(t - 1)

    def step(x):
        covariance = alpha / alpha_s * sigma_s**2
        mean = alpha_s * x + covariance / sigma**2 * (z_t - alpha * x)
        return torch.distributions.Normal(mean, (sigma_s**2 - covariance**2 / sigma**2).sqrt())

    exact = torch.distributions.kl_divergence(step(z_0), step(estimate)).sum()
    mine = taken("bound")["divergence"](t, z_t, z_0, estimate)
    assert mine.item() == pytest.approx(exact.item(), rel=1e-9)


# ---------------------------------------------------------------------- what is measured of the run


@pytest.mark.parametrize("t", [0, 20, 300, 980])
def test_the_random_part_of_a_latent_sets_a_lower_bound(taken, t):
    """By simulation: z_0 is the random part alone, and the best prediction is a straight line."""
    std, n = torch.tensor([0.05, 0.5], dtype=torch.float64), 400_000
    alpha, sigma = SCHEDULE.at(t)
    eps, z_0 = normal(n, 2), std * normal(n, 2, seed=1)
    z_t = alpha * z_0 + sigma * eps
    slope = (z_t * eps).mean(0) / (z_t**2).mean(0)
    exact = ((eps - slope * z_t) ** 2).mean().item()
    assert taken("validate")["random_part"](t, std) == pytest.approx(exact, abs=0.005)


IMAGES = [("day", "sea", "tree", "red"), ("day", "snow", "tree", "blue"), ("night", *"abc")]


class Reader:
    """A judge of images that are given as four words each, or as three without an object."""

    def read(self, images):
        objects = [[(*image[2:], "more")] if len(image) == 4 else [] for image in images]
        return [
            SimpleNamespace(sky=image[0], ground=image[1], things=found)
            for image, found in zip(images, objects, strict=True)
        ]


@pytest.fixture
def measured(taken):
    return taken("judge", judge=Reader(), np=np)


def test_what_is_right_is_counted_by_fact_and_by_image(measured):
    drawn = [IMAGES[0], ("day", "snow", "house", "blue"), ("night", "a", "-")]
    assert measured["right"](IMAGES, IMAGES).tolist() == [1] * 5
    assert measured["right"](drawn, IMAGES) == pytest.approx([1, 1, 1 / 3, 2 / 3, 1 / 3])
    assert measured["right"](IMAGES, IMAGES, 1) == pytest.approx([1 / 3, 0, 1 / 3, 0, 0])


@pytest.mark.parametrize("times", [1, 3])
def test_chance_compares_every_image_with_the_captions_of_all_others(measured, times):
    expected = [1 / 3, 0, 1 / 3, 0, 0]
    assert measured["chance"](IMAGES * times, IMAGES * times) == pytest.approx(expected)


# ------------------------------------------------------------------------------------------ the run


@pytest.fixture
def small(taken):
    """The loop of the notebook on random latents, with a network of a few hundred weights."""

    def small(change: tuple[str, str] = ("", "")):
        known = {
            "mean": normal(12, 4, 8, 8).float(), "std": 0.1 * torch.ones(12, 4, 8, 8),
            "embeddings": normal(5, 6, 8).float(), "EMPTY": 4, "caption_of": torch.arange(12) % 4,
            "os": __import__("os"),
        }  # fmt: skip
        ids = ("08.1", "08.2", "rate", "ema", "batch", "begin", "resume", "resume-table")
        names = taken(*ids, change=change, **known)
        config = sdlearn.UNetConfig(
            block_out_channels=(8,), layers_per_block=1, cross_attention=(True,), num_heads=(2,),
            transformer_depth=(1,), cross_attention_dim=8, norm_num_groups=4, sample_size=8,
        )  # fmt: skip

        def new_unet(*_):
            torch.manual_seed(0)
            return sdlearn.UNet(config)

        names["new_unet"] = new_unet
        return names

    return small


def gone_on(names, folder, lost=()):
    """Whether a run that was killed after four steps ends as one in one piece: network, average."""
    whole, killed, again = (names["new_run"]() for _ in range(3))
    names["train"](whole, 0, 8)
    names["train"](killed, 0, 4)
    names["save"](killed, 4, folder)
    first = names["load"](again, folder, lost)
    names["train"](again, first, first + 4)
    pairs = (whole[0], again[0]), (whole[2].module, again[2].module)
    return [names["distance"](*pair) == 0 for pair in pairs]


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ((), [True, True]),
        (("optimizer",), [False, False]),
        (("average",), [True, False]),
        (("step number",), [False, False]),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits_if_all_was_saved(small, tmp_path, lost, expected):
    assert gone_on(small(), tmp_path, lost) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.parametrize(
    "change",
    [
        ("step_generator(0, k)", "step_generator(0, torch.seed())"),
        ("'average': average.module}", "'average': network}"),
        ("optimizer.load_state_dict(state['optimizer'])", "pass"),
    ],
)
def test_what_is_missing_is_noticed(small, tmp_path, change):
    assert not all(gone_on(small(change), tmp_path))


def test_captions_are_dropped_one_by_one_and_as_often_as_planned(small):
    names = small()
    context = names["make_batch"](0, size=200, dropout=0.3)[3]
    silent = (context == names["embeddings"][4]).all(dim=(1, 2))
    assert 0.2 < silent.double().mean() < 0.4
    assert torch.equal(names["caption_of"], torch.arange(12) % 4)


def test_a_batch_is_a_function_of_its_step(small):
    make_batch = small()["make_batch"]
    one, again, other = (make_batch(k, size=4) for k in (3, 3, 4))
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))


def test_its_captions_say_what_its_images_show(taken):
    known = {
        "Scene": Scene,
        "Thing": Thing,
        "SKIES": {"day": "by day"},
        "GROUNDS": {"sea": "at sea"},
    }
    names = taken("data", **known)
    assert names["caption"]("day", "sea", "tree", "red") == "a red tree at sea by day"
    assert render(names["scene"]("day", "sea", "tree", "red"), 64).size == (64, 64)
