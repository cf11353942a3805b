"""Notebook 09: the samplers that it builds are the finished ones, and a slip in them is noticed.

test_drift.py takes out what the notebook compares; here the same samplers run on other paths.
"""

import ast
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sdlearn
from sdlearn.course import solution
from sdlearn.course.figures.mixtures import DATA, exact_denoiser
from sdlearn.samplers import ADAMS_BASHFORTH, Denoiser, State, lms_coefficients, weighted_sum
from sdlearn.schedule import Point

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "09-sampling.ipynb"
CORE = ("09.1", "09.2", "09.5")  # the learner writes these; the notebook goes on with the solution
NEEDS_MODEL = {"run", "path_for", "right", "distance", "memory"}


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The notebook's own functions, with a piece of their text replaced; nothing else has run."""
    names = {"weights": DATA.weights, "means": DATA.means, "stds": DATA.stds}
    names |= {"torch": torch, "Tensor": Tensor, "Point": Point, "State": State}
    names |= {"pairwise": pairwise, "Denoiser": Denoiser, "sdlearn": sdlearn}
    names["schedule"] = sdlearn.NoiseSchedule()
    texts = [solution(number).text for number in CORE]
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code" and "nbgrader" not in cell["metadata"]:
            body = ast.parse("".join(cell["source"])).body
            texts += [ast.unparse(node) for node in body if isinstance(node, ast.FunctionDef)]
    texts = [ast.unparse(ast.parse(text)) for text in texts]
    assert any(change[0] in text for text in texts)
    for text in texts:
        if not any(f"def {name}(" in text for name in NEEDS_MODEL):
            exec(text.replace(*change), names)
    return names


Z = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PATH = sdlearn.NoiseSchedule().path(12, "trailing", "zero")


def latents(sampler, path, *more):
    states = sampler(exact_denoiser(DATA), Z, path, *more)
    return torch.stack([state.z for state in states])


def noise():
    rng = torch.Generator().manual_seed(1)
    return lambda: torch.randn(Z.shape, generator=rng, dtype=torch.float64)


def differences(names) -> dict[str, float]:
    """How far each part is from the finished one."""
    found = {}
    for name in ("ddim", "euler", "heun", "dpm_pp_2m"):
        theirs = latents(getattr(sdlearn.samplers, name), PATH)
        found[name] = (latents(names[name], PATH) - theirs).norm().item()
    theirs = latents(sdlearn.samplers.ddpm, PATH, noise())
    found["ddpm"] = (latents(names["ddpm"], PATH, noise()) - theirs).norm().item()
    for point in PATH[:3]:
        theirs = exact_denoiser(DATA)(Z, point)
        found["denoise"] = (names["denoise"](Z, point) - theirs).norm().item()
    theirs = sdlearn.NoiseSchedule().path(
        12, "trailing", "zero", sigmas="karras", steps_in="lambda"
    )
    pairs = zip(names["karras"](12), theirs, strict=True)
    found["karras"] = max(
        abs(a - b).item() for x, y in pairs for a, b in zip(x[1:], y[1:], strict=True)
    )
    return found


def test_its_parts_are_the_finished_ones():
    assert max(differences(built()).values()) < 1e-11


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("denoise", ("(point.alpha * stds) ** 2", "point.alpha * stds ** 2")),
        ("denoise", ("weights.log() - variance.log()", "weights.log()")),
        ("denoise", ("squared / (2 * variance)", "squared / variance")),
        ("ddim", ("(z - here.alpha * z_0) / here.sigma\n    return there", "z\n    return there")),
        (
            "ddim",
            ("return there.alpha * z_0 + there.sigma * eps", "return z_0 + there.sigma * eps"),
        ),
        ("ddpm", ("(1 - a) / here.sigma * eps", "(1 - a) * eps")),
        ("ddpm", ("there.sigma / here.sigma * (1 - a).sqrt()", "there.sigma")),
        ("ddpm", ("here, there, noise())", "here, there, 0.0)")),
        ("euler", ("(rho_next - rho) * slope", "(rho - rho_next) * slope")),
        ("euler", ("denoise(here.alpha * x, here)", "denoise(x, here)")),
        ("heun", ("denoise(ahead, there), there)) / 2", "denoise(ahead, there), here)) / 2")),
        ("heun", ("if there.sigma > 0:\n            ahead", "if True:\n            ahead")),
        ("dpm_pp_2m", ("there.sigma).log() - now) / 2", "there.sigma).log() - now)")),
        ("dpm_pp_2m", ("if before and there.sigma > 0", "if before and there.sigma < 0")),
        ("karras", ("** (1 / r)", "")),
        ("karras", ("[-1, 0]", "[-2, 0]")),
    ],
)
def test_a_slip_in_a_part_is_noticed(part, change):
    assert not differences(built(change))[part] < 1e-3  # nan is noticed as well


def test_its_samplers_agree_with_the_finished_ones_on_other_paths():
    names, schedule = built(), sdlearn.NoiseSchedule()
    for name in ("ddim", "euler", "heun", "dpm_pp_2m"):
        for steps, spacing, final_sigma, sigmas in (
            (7, "leading", "min", "table"),
            (1, "trailing", "zero", "table"),
            (20, "linspace", "zero", "karras"),
        ):
            path = schedule.path(steps, spacing, final_sigma, sigmas=sigmas, steps_in="sigma")
            theirs = latents(getattr(sdlearn.samplers, name), path)
            assert (latents(names[name], path) - theirs).norm() < 1e-11


@pytest.mark.parametrize(
    ("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm_pp_2m", 2)]
)
def test_its_samplers_have_the_order_that_it_says(name, order):
    names = built()
    truth = latents(sdlearn.samplers.plms, names["arc"](600))[-1]
    errors = [(latents(names[name], names["arc"](n))[-1] - truth).norm().item() for n in (60, 120)]
    assert 2**order * 0.9 < errors[0] / errors[1] < 2**order * 1.15


def test_why_lms_and_plms_do_not_reach_fourth_order():
    """LMS from an exact beginning falls faster; PLMS does not, so its weights are to blame."""
    arc = built()["arc"]
    truth = latents(sdlearn.samplers.plms, arc(1600))[-1]

    def error(sampler, n, exact_beginning):
        path, past, nodes, z = arc(n), [], [], Z
        for k, (here, there) in enumerate(pairwise(path)):
            eps = sdlearn.samplers.predicted_noise(z, exact_denoiser(DATA)(z, here), here)
            past, nodes = [eps, *past][:4], [here.sigma / here.alpha, *nodes][:4]
            weights = (
                ADAMS_BASHFORTH[len(past) - 1]
                if sampler == "plms"
                else lms_coefficients(torch.stack(nodes), there.sigma / there.alpha)
            )
            if exact_beginning and k < 3:
                *_, end = sdlearn.samplers.plms(exact_denoiser(DATA), z, arc(400, here.t, there.t))
                z = end.z
            else:
                z = sdlearn.samplers.step_to(z, weighted_sum(weights, past), here, there)
        return (z - truth).norm().item()

    def order(sampler, exact_beginning):
        return math.log2(error(sampler, 80, exact_beginning) / error(sampler, 160, exact_beginning))

    assert order("lms", exact_beginning=True) > 2.9
    assert order("lms", exact_beginning=False) < 2.5
    assert order("plms", exact_beginning=True) < 2.2


def test_the_score_of_its_density_is_the_predicted_noise():
    names, point = built(), PATH[4]
    z = Z.clone().requires_grad_()
    (score,) = torch.autograd.grad(names["log_density"](z, point).sum(), z)
    eps = sdlearn.samplers.predicted_noise(Z, names["denoise"](Z, point), point)
    assert (score + eps / point.sigma).abs().max() < 1e-11
