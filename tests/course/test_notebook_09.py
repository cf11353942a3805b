"""Notebook 09: what it builds beside its comparisons, which test_drift.py takes out and breaks."""

import ast
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import sdlearn
from sdlearn.course import figures
from sdlearn.course.figures.samplers import DATA, exact_denoiser
from sdlearn.samplers import ADAMS_BASHFORTH, lms_coefficients, weighted_sum

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "09-sampling.ipynb"
MODEL = [
    "model", "steps-table", "steps-ranking", "steps-figure", "sheet", "weights", "unguided",
    "invert", "invert-figure",
]  # fmt: skip


@pytest.fixture(scope="module")
def code() -> dict[str, str]:
    """The code cells by their ids, without the exercises."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    sources = {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "code"}
    return {name: text for name, text in sources.items() if not name.startswith("exercise")}


def built(code, change=("", "")) -> dict:
    """The notebook's own functions, with a change to their text or none; nothing else has run."""
    names = {"weights": DATA.weights, "means": DATA.means, "stds": DATA.stds}
    names["schedule"] = sdlearn.NoiseSchedule()
    texts = []
    for source in code.values():
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), names)
            elif isinstance(node, ast.FunctionDef):
                texts.append(ast.unparse(node))
    assert sum(change[0] in text for text in texts) >= 1
    for text in texts:
        if "inference_mode" not in text:  # those need the model
            exec(text.replace(*change), names)
    return names


Z = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PATH = sdlearn.NoiseSchedule().path(12, "trailing", "zero")


def walked(walk, path, *more):
    return torch.stack([step.z for step in walk(exact_denoiser(DATA), Z, path, *more)])


def noise():
    rng = torch.Generator().manual_seed(1)
    return lambda: torch.randn(Z.shape, generator=rng, dtype=torch.float64)


def differences(names) -> dict[str, float]:
    """How far each part is from the finished one, on what the notebook compares them on."""
    finished, found = sdlearn.samplers, {}
    for walk in ("ddim", "euler", "heun", "dpm_pp_2m"):
        ours = walked(names[walk], PATH)
        found[walk] = (ours - walked(getattr(finished, walk), PATH)).norm().item()
    for walk, more in (("ddpm", ()), ("ddim", (0.6,))):
        ours, theirs = (
            walked(w, PATH, *more, noise()) for w in (names[walk], getattr(finished, walk))
        )
        found[f"{walk}, with noise"] = (ours - theirs).norm().item()
    for point in PATH[:3]:
        found["denoise"] = (
            (names["denoise"](Z, point) - exact_denoiser(DATA)(Z, point)).norm().item()
        )
    return found


def test_its_parts_are_the_finished_ones(code):
    assert max(differences(built(code)).values()) < 1e-11


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("denoise", ("(point.alpha * stds) ** 2", "point.alpha * stds ** 2")),
        ("denoise", ("weights.log() - variance.log()", "weights.log()")),
        ("denoise", ("away.pow(2).sum(-1) / (2 * variance)", "away.pow(2).sum(-1) / variance")),
        ("ddpm, with noise", ("/ here.sigma ** 2 * z_0", "/ here.sigma * z_0")),
        ("ddpm, with noise", ("(there.sigma / here.sigma) ** 2 * z", "there.sigma * z")),
        ("ddpm, with noise", ("posterior_std(here, there) * noise()", "there.sigma * noise()")),
        ("ddpm, with noise", ("variance.clamp(min=0).sqrt()", "variance")),
        ("ddim, with noise", ("(there.sigma ** 2 - kick ** 2).sqrt()", "there.sigma")),
        ("ddim, with noise", ("eta * posterior_std", "eta ** 2 * posterior_std")),
        ("ddim", ("there.alpha * z_0 + (there", "here.alpha * z_0 + (there")),
        ("euler", ("(rho_s - rho) * slope", "(rho - rho_s) * slope")),
        ("euler", ("denoise(here.alpha * x, here)", "denoise(x, here)")),
        ("heun", ("denoise(ahead, there), there)) / 2", "denoise(ahead, there), here)) / 2")),
        ("heun", ("if there.sigma > 0:\n            ahead", "if True:\n            ahead")),
        ("dpm_pp_2m", ("there.sigma).log() - now) / 2", "there.sigma).log() - now)")),
        ("dpm_pp_2m", ("if before and there.sigma > 0", "if before and there.sigma < 0")),
    ],
)
def test_a_mistake_in_a_part_is_noticed(code, part, change):
    assert not differences(built(code, change))[part] < 1e-3  # nan is noticed as well


def test_its_samplers_walk_as_the_finished_ones_on_other_paths(code):
    names, schedule = built(code), sdlearn.NoiseSchedule()
    for walk in ("ddim", "euler", "heun", "dpm_pp_2m"):
        for steps, spacing, final_sigma, sigmas in (
            (7, "leading", "min", "table"),
            (1, "trailing", "zero", "table"),
            (20, "linspace", "zero", "karras"),
        ):
            path = schedule.path(steps, spacing, final_sigma, sigmas=sigmas, steps_in="sigma")
            theirs = walked(getattr(sdlearn.samplers, walk), path)
            assert (walked(names[walk], path) - theirs).norm() < 1e-11
    back = schedule.path(20, "trailing", "min")[::-1]
    assert (walked(names["ddim"], back) - walked(sdlearn.samplers.ddim, back)).norm() < 1e-11


@pytest.mark.parametrize(
    ("walk", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm_pp_2m", 2)]
)
def test_its_samplers_have_the_order_that_it_says(code, walk, order):
    names = built(code)
    truth = walked(sdlearn.samplers.plms, names["arc"](600))[-1]
    errors = [(walked(names[walk], names["arc"](n))[-1] - truth).norm().item() for n in (60, 120)]
    assert 2**order * 0.9 < errors[0] / errors[1] < 2**order * 1.15


def test_why_four_looks_are_not_of_fourth_order(code):
    """LMS with a begin from the exact flow falls faster; PLMS does not, and so its weights are to
    blame."""
    arc = built(code)["arc"]
    truth = walked(sdlearn.samplers.plms, arc(1600))[-1]

    def error(walk, n, exact_begin):
        path, past, nodes, z = arc(n), [], [], Z
        for k, (here, there) in enumerate(pairwise(path)):
            seen = sdlearn.samplers.predicted_noise(z, exact_denoiser(DATA)(z, here), here)
            past, nodes = [seen, *past][:4], [here.sigma / here.alpha, *nodes][:4]
            weights = (
                ADAMS_BASHFORTH[len(past) - 1]
                if walk == "plms"
                else lms_coefficients(torch.stack(nodes), there.sigma / there.alpha)
            )
            if exact_begin and k < 3:
                fine = arc(400, here.t, there.t)
                *_, end = sdlearn.samplers.plms(exact_denoiser(DATA), z, fine)
                z = end.z
            else:
                z = sdlearn.samplers.step_to(z, weighted_sum(weights, past), here, there)
        return (z - truth).norm().item()

    def order(walk, exact_begin):
        return math.log2(error(walk, 80, exact_begin) / error(walk, 160, exact_begin))

    assert order("lms", exact_begin=True) > 2.9
    assert order("lms", exact_begin=False) < 2.5
    assert order("plms", exact_begin=True) < 2.2


def test_its_distance_of_clouds(code):
    names = built(code)
    turns = torch.arange(32, dtype=torch.float64) / 32 * torch.pi
    names["directions"] = torch.stack([turns.cos(), turns.sin()])
    shift = torch.tensor([0.3, 0.0], dtype=torch.float64)
    assert names["sliced"](Z, Z.flip(0)) == 0
    # The mean of |0.3 cos| over all directions is 0.3 * 2 / pi.
    assert names["sliced"](Z, Z + shift) == pytest.approx(0.6 / torch.pi, rel=2e-3)


def test_its_cells_with_the_model_run_with_any_weights(
    code, tiny_storybook, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(sdlearn.StableDiffusion, "storybook", lambda **_: tiny_storybook)
    shown = []
    monkeypatch.setattr(figures, "show", lambda figure, alt: shown.append(alt))
    monkeypatch.chdir(tmp_path)
    names = built(code)
    for name in MODEL:
        exec(compile(code[name], name, "exec"), names)
    assert len(shown) == 3
    assert names["lines"]["Heun"][0] == [5, 9, 19, 49]
    assert all(calls == [5, 10, 20, 50] for n, (calls, _) in names["lines"].items() if n != "Heun")
    assert "largest difference 0e+00" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
