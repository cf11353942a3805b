"""scheduler_config.json of a published folder <-> how a specification draws.

The published classes are named after their samplers; each has defaults of its own for what the file
leaves out, and settings that the sampler here does not have. One table, SCHEDULERS, serves reading
and writing. Files also carry entries that their class ignores and others understand, as published
ones do, so that a change of the sampler keeps them.
"""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sdlearn.configs import Json, read_config
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import PUBLISHED_PREDICTIONS, Kind, NoiseSchedule, Spacing
from sdlearn.versions import SPECS, ModelSpec

# What no sampler here does otherwise.
SCHEDULE_FIXED = {"trained_betas": None, "thresholding": False}
# What the classes in sigma could also do with their points.
SPREAD: dict[str, Any] = {"use_exponential_sigmas": False, "use_beta_sigmas": False}
KARRAS, LU, ZERO_SNR = "use_karras_sigmas", "use_lu_lambdas", "rescale_betas_zero_snr"


class PublishedScheduler(NamedTuple):
    """A published scheduler class.

    sampler: its name here; fixed: what of the class's settings this sampler does in one way only;
    has: which of KARRAS, LU and ZERO_SNR the class has a setting for.
    """

    sampler: str
    fixed: Json
    has: tuple[str, ...]


SCHEDULERS = {
    "DDIMScheduler": PublishedScheduler("ddim", {}, (ZERO_SNR,)),
    "DDPMScheduler": PublishedScheduler("ddpm", {"variance_type": "fixed_small"}, (ZERO_SNR,)),
    # This class averages raw network outputs; the sampler here averages noise, as the original.
    "PNDMScheduler": PublishedScheduler(
        "plms", {"skip_prk_steps": True, "prediction_type": "epsilon"}, ()
    ),
    "EulerDiscreteScheduler": PublishedScheduler(
        "euler",
        SPREAD
        | {
            "interpolation_type": "linear",
            "sigma_min": None,
            "sigma_max": None,
            "timestep_type": "discrete",
            "final_sigmas_type": "zero",
        },
        (KARRAS, ZERO_SNR),
    ),
    "EulerAncestralDiscreteScheduler": PublishedScheduler("euler_ancestral", {}, (ZERO_SNR,)),
    "HeunDiscreteScheduler": PublishedScheduler("heun", SPREAD, (KARRAS,)),
    "LMSDiscreteScheduler": PublishedScheduler("lms", SPREAD, (KARRAS,)),
    "DPMSolverMultistepScheduler": PublishedScheduler(
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
        (KARRAS, LU, ZERO_SNR),
    ),
}
CLASSES = {published.sampler: name for name, published in SCHEDULERS.items()}
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


# ---------------------------------------------------------------------------------------- reading


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
    sampler, fixed, has = SCHEDULERS.get(named, SCHEDULERS["DDIMScheduler"])
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
    if prediction not in PUBLISHED_PREDICTIONS:
        raise ValueError(
            f"{path}: prediction_type is {prediction!r}; known are "
            f"{', '.join(PUBLISHED_PREDICTIONS)}"
        )
    heun = named == "HeunDiscreteScheduler"  # the one class with betas of its own
    schedule = NoiseSchedule(
        num_steps=config.integer("num_train_timesteps", 1000),
        beta_start=config.number("beta_start", 0.00085 if heun else 0.0001),
        beta_end=config.number("beta_end", 0.012 if heun else 0.02),
        kind=KINDS[kind],
        zero_terminal_snr=config.flag(ZERO_SNR) and ZERO_SNR in has,
    )
    # A sampler on whole times has no such points; they are kept for a change of the sampler.
    karras = config.flag(KARRAS) and (KARRAS in has or SAMPLERS[sampler].grid == "t")
    lu = config.flag(LU, LU not in has and spec.lu)
    whole_times = sampler in ("ddim", "ddpm", "plms")
    spacing = config.text("timestep_spacing", "leading" if whole_times else "linspace")
    if spacing not in SPACINGS:
        raise ValueError(
            f"{path}: timestep_spacing is {spacing!r}; known are {', '.join(SPACINGS)}"
        )
    return replace(
        spec,
        schedule=schedule,
        predicts=PUBLISHED_PREDICTIONS[prediction],
        sampler=sampler,
        spacing=SPACINGS[spacing],
        offset=config.integer("steps_offset", 0, least=0),
        final="clean" if config.flag("set_alpha_to_one", named == "DDIMScheduler") else "first",
        karras=karras,
        lu=lu,
    )


# ---------------------------------------------------------------------------------------- writing


def scheduler_json(spec: ModelSpec) -> Json:
    """scheduler/scheduler_config.json: the published class that draws as the specification does.

    Steps and guidance are not in this file.

    Raises:
        ValueError: for an unknown spacing, end or sampler, and for what the published class of the
            sampler has no setting for.
    """
    schedule = spec.schedule
    schedule.path(1, spec.spacing, spec.final, spec.offset)  # refuses unknown names
    check_published(spec)
    name = CLASSES[spec.sampler]
    _, fixed, has = SCHEDULERS[name]
    json = {key: value for key, value in fixed.items() if value != -math.inf} | {
        "_class_name": name,
        "beta_end": schedule.beta_end,
        "beta_schedule": next(name for name, kind in KINDS.items() if kind == schedule.kind),
        "beta_start": schedule.beta_start,
        "clip_sample": False,
        "num_train_timesteps": schedule.num_steps,
        "prediction_type": next(n for n, p in PUBLISHED_PREDICTIONS.items() if p == spec.predicts),
        ZERO_SNR: schedule.zero_terminal_snr,
        "set_alpha_to_one": spec.final == "clean",
        "steps_offset": spec.offset,
        "timestep_spacing": spec.spacing,
        "trained_betas": None,
    }
    if KARRAS in has or spec.karras:
        json[KARRAS] = spec.karras
    system = SPECS.get(spec.name)
    if LU in has or system is None or system.lu != spec.lu:  # else known by its name
        json[LU] = spec.lu
    return json


def check_published(spec: ModelSpec) -> None:
    """Refuse a specification that the published class of its sampler would draw otherwise.

    Raises:
        ValueError: for that, and for a sampler without a published class.
    """
    if spec.sampler not in CLASSES:
        raise ValueError(
            f"sampler {spec.sampler!r} cannot be saved: the samplers with a published scheduler "
            f"are {', '.join(CLASSES)}"
        )
    lacking = {
        "karras=True": spec.karras and SAMPLERS[spec.sampler].grid != "t" and KARRAS,
        "zero_terminal_snr=True": spec.schedule.zero_terminal_snr and ZERO_SNR,
    }
    name = CLASSES[spec.sampler]
    for what, setting in lacking.items():
        if setting and setting not in SCHEDULERS[name].has:
            can = ", ".join(p.sampler for p in SCHEDULERS.values() if setting in p.has)
            raise ValueError(
                f"sampler {spec.sampler!r} cannot be saved with {what}: {name} has no setting "
                f"{setting}; choose one of {can}"
            )
    if spec.predicts == "velocity" and "prediction_type" in SCHEDULERS[name].fixed:
        can = ", ".join(p.sampler for p in SCHEDULERS.values() if "prediction_type" not in p.fixed)
        raise ValueError(
            f"sampler {spec.sampler!r} cannot be saved with predicts='velocity': {name} averages "
            f"velocities, not noise; choose one of {can}"
        )
