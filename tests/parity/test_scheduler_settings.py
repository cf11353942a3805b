"""Every class and every setting of diffusers' schedulers: the same numbers, or a word about it.

The classes and their settings are read off diffusers' source, so that none is forgotten. Each
value is read from a scheduler_config.json; if nothing is said, the latents are those of diffusers
in float64, and otherwise the warning or the error names the setting.
"""

import ast
import json
import math
import warnings
from itertools import combinations
from pathlib import Path
from random import Random

import diffusers
import numpy
import pytest
import torch

from sdlearn.versions import SPECS
from sdlearn.weights.scheduler_classes import SCHEDULERS
from sdlearn.weights.scheduler_config import scheduler_config_from_json

from . import test_samplers
from .test_samplers import PUBLISHED, ours, theirs

FOLDER = Path(diffusers.__file__).parent
STEPS = 8  # divides 1000, so that a fixed stride is the list's
TOLERANCE = 1e-7
PLAIN = PUBLISHED | {"clip_sample": False, "skip_prk_steps": True, "steps_offset": 1}


def literal(node):
    """A default in the source; an expression, of which only -inf is of interest, is -inf."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return -math.inf


def signatures():
    """Every scheduler class in diffusers' source -> its settings and their defaults."""
    found = {}
    for path in sorted(FOLDER.glob("schedulers/**/*.py")):
        for item in ast.parse(path.read_text()).body:
            if not (isinstance(item, ast.ClassDef) and item.name.endswith("Scheduler")):
                continue
            for method in item.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    names = [argument.arg for argument in method.args.args][1:]
                    given = [None] * len(names) + [literal(d) for d in method.args.defaults]
                    found[item.name] = dict(zip(names, given[-len(names) :], strict=True))
    return found


SIGNATURES = signatures()


class Double:
    """A module in which float32 is float64."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


@pytest.fixture
def double(monkeypatch):
    """diffusers' schedulers, and the noise they get, in float64."""
    for name in SCHEDULERS:
        module = getattr(diffusers, name).__module__
        monkeypatch.setattr(f"{module}.torch", Double(torch))
        monkeypatch.setattr(f"{module}.np", Double(numpy))
    draw = lambda steps, seed=1: list(  # noqa: E731
        torch.randn(steps + 1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    )
    monkeypatch.setattr(test_samplers, "noises", draw)


def read(config, tmp_path, **options):
    """The specification of a file, or the ValueError's sentence; and the warnings' sentences."""
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            spec = scheduler_config_from_json(
                tmp_path / "scheduler_config.json", SPECS["sd1.5"], **options
            )
        except ValueError as error:
            spec = str(error)
    return spec, [str(each.message) for each in caught]


def difference(scheduler, spec, monkeypatch, steps=STEPS):
    """The largest relative error of all latents, in float64."""
    expected, calls = theirs(scheduler, spec.sampler, steps, monkeypatch)
    latents, ours_calls = ours(spec, steps)
    assert ours_calls == calls
    assert {z.dtype for z in latents} == {z.dtype for z in expected} == {torch.float64}
    pairs = zip(latents, expected, strict=True)
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


# Values other than the default for every setting of the classes in SCHEDULERS.
BETAS = [0.001 + 0.00001 * t for t in range(1000)]
VALUES = {
    "num_train_timesteps": [800],
    "beta_start": [0.001],
    "beta_end": [0.015],
    "beta_schedule": ["linear", "squaredcos_cap_v2", "laplace", "sigmoid", "exp", "new"],
    "trained_betas": [BETAS],
    "prediction_type": ["v_prediction", "sample", "flow_prediction", None],
    "timestep_spacing": ["leading", "trailing", "linspace", "new"],
    "steps_offset": [0, 3],
    "clip_sample": [True, None],
    "clip_sample_range": [0.1],
    "set_alpha_to_one": [True, False, None],
    "thresholding": [True, None],
    "dynamic_thresholding_ratio": [0.5],
    "sample_max_value": [0.5],
    "rescale_betas_zero_snr": [True],
    "variance_type": ["fixed_small_log", "fixed_large", "learned", "learned_range", "new", None],
    "skip_prk_steps": [False, None],
    "use_karras_sigmas": [True],
    "use_exponential_sigmas": [True],
    "use_beta_sigmas": [True],
    "use_lu_lambdas": [True],
    "interpolation_type": ["log_linear", "new"],
    "sigma_min": [0.1],
    "sigma_max": [5.0],
    "timestep_type": ["continuous"],
    "final_sigmas_type": ["sigma_min", "new"],
    "solver_order": [1, 3],
    "algorithm_type": ["deis", "dpmsolver", "sde-dpmsolver", "sde-dpmsolver++", "new"],
    "solver_type": ["heun", "logrho", "bh1", "bh2", "new"],
    "lower_order_final": [False],
    "euler_at_final": [True],
    "use_flow_sigmas": [True],
    "flow_shift": [3.0],
    "lambda_min_clipped": [-5.1, -1.0],
    "use_dynamic_shifting": [True],
    "time_shift_type": ["linear"],
}
SINGLE = [
    pytest.param(name, {key: value}, id=f"{name} {key} {str(value)[:20]}")
    for name in SCHEDULERS
    for key in SIGNATURES[name]
    for value in VALUES[key]
    if not (key == "beta_schedule" and value == "exp" and name != "HeunDiscreteScheduler")
]


def pairs(number=60, seed=0):
    """For each class, some pairs of settings at once."""
    for name in SCHEDULERS:
        settings = [(key, value) for key in SIGNATURES[name] for value in VALUES[key]]
        several = [dict(pair) for pair in combinations(settings, 2) if pair[0][0] != pair[1][0]]
        for chosen in Random(seed).sample(several, number):
            yield pytest.param(
                name,
                chosen,
                id=f"{name} {' '.join(f'{k} {str(v)[:9]}' for k, v in chosen.items())}",
            )


def honest(name, changes, tmp_path, monkeypatch):
    """Read, and say how it went: exact, or the keys named by the warning or the error."""
    config = PLAIN | {"_class_name": name, "_diffusers_version": "0.42.0"} | changes
    spec, said = read(config, tmp_path)
    if isinstance(spec, str):
        assert len(spec) < 400
        return "refused", {key for key in changes if f"{key} is " in spec or f" {key} " in spec}
    if said:
        assert len(said) == 1
        assert len(said[0]) < 500
        assert said[0].startswith(f"{tmp_path / 'scheduler_config.json'}: {name} with ")
        return "replaced", {key for key in changes if f" {key} " in said[0]}
    kept = {k: v for k, v in config.items() if not (k == "prediction_type" and v is None)}
    scheduler = getattr(diffusers, name).from_config(kept)
    assert difference(scheduler, spec, monkeypatch) <= TOLERANCE
    return "exact", set()


@pytest.mark.parametrize(("name", "changes"), SINGLE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_no_setting_is_ignored(name, changes, tmp_path, monkeypatch, double):
    outcome, named = honest(name, changes, tmp_path, monkeypatch)
    ((key, value),) = changes.items()
    assert outcome == expected_outcome(name, key, value)
    assert named == (set() if outcome == "exact" else {key})


REFUSED = {
    "trained_betas": [BETAS],
    "beta_schedule": ["laplace", "sigmoid", "exp", "new"],
    "prediction_type": ["sample", "flow_prediction"],
    "timestep_spacing": ["new"],
    "use_flow_sigmas": [True],
}
REPLACED = {
    "clip_sample": [True],
    "thresholding": [True],
    "variance_type": ["fixed_large", "learned", "learned_range", "new"],
    "skip_prk_steps": [False, None],
    "use_exponential_sigmas": [True],
    "use_beta_sigmas": [True],
    "interpolation_type": ["log_linear", "new"],
    "final_sigmas_type": ["sigma_min", "new"],
    "solver_order": [1, 3],
    "algorithm_type": ["deis", "dpmsolver", "sde-dpmsolver", "sde-dpmsolver++", "new"],
    "solver_type": ["heun", "new"],
    "lambda_min_clipped": [-1.0],
}


def expected_outcome(name, key, value):
    """What a setting alone must come to."""
    if value in REFUSED.get(key, []):
        return "refused"
    strides = name in ("DDIMScheduler", "PNDMScheduler")
    if strides and key == "timestep_spacing" and value != "leading":
        return "replaced"
    if name == "PNDMScheduler" and value == "v_prediction":
        return "replaced"
    if name == "DPMSolverMultistepScheduler" and value == "fixed_large":
        return "exact"  # any but a learned variance is for other classes
    return "replaced" if value in REPLACED.get(key, []) else "exact"


@pytest.mark.parametrize(("name", "changes"), pairs())
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_no_two_settings_are_ignored(name, changes, tmp_path, monkeypatch, double):
    outcome, named = honest(name, changes, tmp_path, monkeypatch)
    assert bool(named) == (outcome != "exact")
    expected = {expected_outcome(name, *each) for each in changes.items()}
    if "refused" in expected:
        assert outcome == "refused"
