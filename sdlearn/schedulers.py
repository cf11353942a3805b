"""scheduler_config.json of a published folder -> how a specification draws.

The published classes are named after their samplers; each has defaults of its own for what the file
leaves out, and settings that the sampler here does not have.
"""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlearn.configs import Json, read_config
from sdlearn.guidance import Predicts
from sdlearn.schedule import Kind, NoiseSchedule, Spacing
from sdlearn.versions import ModelSpec

# What no sampler here does otherwise.
SCHEDULE_FIXED = {"trained_betas": None, "thresholding": False}
# Published scheduler classes: the sampler here, and what of theirs it does in one way only.
SPREAD: dict[str, Any] = {"use_exponential_sigmas": False, "use_beta_sigmas": False}
SCHEDULERS: dict[str, tuple[str, Json]] = {
    "DDIMScheduler": ("ddim", {}),
    "DDPMScheduler": ("ddpm", {"variance_type": "fixed_small"}),
    # This class averages raw network outputs; the sampler here averages noise, as the original.
    "PNDMScheduler": ("plms", {"skip_prk_steps": True, "prediction_type": "epsilon"}),
    "EulerDiscreteScheduler": (
        "euler",
        SPREAD
        | {
            "interpolation_type": "linear",
            "sigma_min": None,
            "sigma_max": None,
            "timestep_type": "discrete",
            "final_sigmas_type": "zero",
        },
    ),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", {}),
    "HeunDiscreteScheduler": ("heun", SPREAD),
    "LMSDiscreteScheduler": ("lms", SPREAD),
    "DPMSolverMultistepScheduler": (
        "dpm_pp_2m",
        SPREAD
        | {
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "use_flow_sigmas": False,
            "use_dynamic_shifting": False,
            "lambda_min_clipped": -math.inf,
            "final_sigmas_type": "zero",
        },
    ),
}
PREDICTS: dict[str, Predicts] = {"epsilon": "noise", "v_prediction": "velocity"}
SPACINGS: dict[str, Spacing] = {
    "leading": "leading",
    "trailing": "trailing",
    "linspace": "linspace",
}
KINDS: dict[str, Kind] = {
    "scaled_linear": "scaled_linear",
    "linear": "linear",
    "squaredcos_cap_v2": "cosine",
}


def read_scheduler(path: Path, spec: ModelSpec, named: str | None = None) -> ModelSpec:
    """scheduler/scheduler_config.json into a specification: schedule, sampler, path, prediction.

    All of Stable Diffusion's published samplers share one schedule; one that is not offered here is
    replaced by DDIM on that schedule, with a warning, and settings of one that is, but not like
    that, are refused. Absent entries mean what they mean to the sampler named; where
    model_index.json names one, that counts, and not what the file itself says.
    """
    config = read_config(path, SCHEDULE_FIXED)
    named = named or config.text("_class_name", "")
    if named not in SCHEDULERS:
        warnings.warn(
            f"{path}: the scheduler is of the class {named!r}, which is not offered here; pictures "
            "are made with DDIM on the same schedule instead, unless sampler= says otherwise",
            stacklevel=5,  # of StableDiffusion.from_pretrained
        )
    sampler, fixed = SCHEDULERS.get(named, ("ddim", {}))
    if config.flag("clip_sample", named in ("DDPMScheduler", "DDIMScheduler")):
        raise ValueError(f"{path}: clip_sample is true; latents are not confined, it must be false")
    for key, value in fixed.items():
        given = config.get(key)
        if given is None:  # what every class does then, except that PNDM does not skip
            given = False if key == "skip_prk_steps" else value
        if given != value:
            instead = "; use DDIMScheduler, which it must say here and in model_index.json"
            raise ValueError(
                f"{path}: {key} is {given!r}; in a {named} it must be {value!r}"
                f"{instead if key == 'prediction_type' else ''}"
            )
    kind = config.text("beta_schedule", "linear")
    prediction = "epsilon"
    if config.get("prediction_type") is not None:
        prediction = config.text("prediction_type")
    if kind not in KINDS:
        raise ValueError(f"{path}: beta_schedule is {kind!r}; known are {', '.join(KINDS)}")
    if prediction not in PREDICTS:
        raise ValueError(
            f"{path}: prediction_type is {prediction!r}; known are {', '.join(PREDICTS)}"
        )
    heun = named == "HeunDiscreteScheduler"  # the one class with betas of its own
    schedule = NoiseSchedule(
        num_steps=config.integer("num_train_timesteps", 1000),
        beta_start=config.number("beta_start", 0.00085 if heun else 0.0001),
        beta_end=config.number("beta_end", 0.012 if heun else 0.02),
        kind=KINDS[kind],
        zero_terminal_snr=config.flag("rescale_betas_zero_snr"),
    )
    karras = config.flag("use_karras_sigmas") and SPREAD.keys() <= fixed.keys()
    lu = spec.lu
    if sampler == "dpm_pp_2m":
        lu = config.flag("use_lu_lambdas") and not karras
    whole_times = sampler in ("ddim", "ddpm", "plms")
    spacing = config.text("timestep_spacing", "leading" if whole_times else "linspace")
    if spacing not in SPACINGS:
        raise ValueError(
            f"{path}: timestep_spacing is {spacing!r}; known are {', '.join(SPACINGS)}"
        )
    return replace(
        spec,
        schedule=schedule,
        predicts=PREDICTS[prediction],
        sampler=sampler,
        spacing=SPACINGS[spacing],
        offset=config.integer("steps_offset", 0, least=0),
        final="clean" if config.flag("set_alpha_to_one", named == "DDIMScheduler") else "first",
        karras=karras,
        lu=lu,
    )
