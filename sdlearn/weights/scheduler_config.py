"""scheduler_config.json of a published folder, read into a specification and written from one.

    scheduler_config_from_json   scheduler_config_to_json

A published scheduler class is one sampler. It has its own defaults for entries that the file lacks,
and settings that the sampler here does not have. The table SCHEDULERS is used for reading and for
writing. As published files do, written files also have entries that their own class ignores and
other classes use, so that they are kept if the sampler is changed.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import PUBLISHED_PREDICTIONS, Kind, NoiseSchedule, Sigmas, Spacing
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights.json_config import Config, Json, read_config

Choice = TypeVar("Choice")

# The only supported values of these settings, for every class.
UNSUPPORTED = {"trained_betas": None, "thresholding": False}
# The same for the classes that step in sigma.
SIGMA_OPTIONS: dict[str, Any] = {"use_exponential_sigmas": False, "use_beta_sigmas": False}
KARRAS, LU, ZERO_SNR = "use_karras_sigmas", "use_lu_lambdas", "rescale_betas_zero_snr"


class PublishedScheduler(NamedTuple):
    """A published scheduler class.

    Attributes:
        sampler: Its name here.
        fixed: The only value of each of these settings that the sampler here supports.
        has: Which of the settings KARRAS, LU and ZERO_SNR the class has.
    """

    sampler: str
    fixed: Json
    has: tuple[str, ...]


SCHEDULERS = {
    "DDIMScheduler": PublishedScheduler("ddim", {}, (ZERO_SNR,)),
    "DDPMScheduler": PublishedScheduler("ddpm", {"variance_type": "fixed_small"}, (ZERO_SNR,)),
    # This class averages the network's outputs; the sampler here averages noise, as the original.
    "PNDMScheduler": PublishedScheduler(
        "plms", {"skip_prk_steps": True, "prediction_type": "epsilon"}, ()
    ),
    "EulerDiscreteScheduler": PublishedScheduler(
        "euler",
        SIGMA_OPTIONS
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
    "HeunDiscreteScheduler": PublishedScheduler("heun", SIGMA_OPTIONS, (KARRAS,)),
    "LMSDiscreteScheduler": PublishedScheduler("lms", SIGMA_OPTIONS, (KARRAS,)),
    "DPMSolverMultistepScheduler": PublishedScheduler(
        "dpm_pp_2m",
        SIGMA_OPTIONS
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


# ------------------------------------------------------------------------------------------ reading


def scheduler_config_from_json(
    path: Path, spec: ModelSpec, class_name: str | None = None
) -> ModelSpec:
    """Read scheduler/scheduler_config.json into a specification.

    All published samplers of Stable Diffusion share one noise schedule. A scheduler class that is
    not supported is replaced by DDIM on that schedule, with a warning; a supported class with a
    setting that is not supported is refused. Entries that the file lacks have the defaults of the
    class.

    Args:
        path: The file.
        spec: The specification to change.
        class_name: The scheduler's class in model_index.json, which overrides the one in the file.

    Returns:
        The specification with the file's schedule, prediction, sampler and path.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is malformed or not supported.
    """
    config = read_config(path, UNSUPPORTED)
    class_name = class_name or config.text("_class_name", "")
    if class_name not in SCHEDULERS:
        warnings.warn(
            f"{path}: the scheduler class {class_name!r} is not supported; images are generated "
            "with DDIM on the same schedule, unless sampler= is given",
            stacklevel=5,  # of StableDiffusion.from_pretrained
        )
    sampler, fixed, has = SCHEDULERS.get(class_name, SCHEDULERS["DDIMScheduler"])
    check_fixed(config, class_name, fixed)
    if config.get("prediction_type") is None:  # null means the default
        config.pop("prediction_type", None)
    default = "leading" if sampler in ("ddim", "ddpm", "plms") else "linspace"
    return replace(
        spec,
        schedule=read_schedule(config, class_name, has),
        predicts=choice(config, "prediction_type", "epsilon", PUBLISHED_PREDICTIONS),
        sampler=sampler,
        spacing=choice(config, "timestep_spacing", default, SPACINGS),
        steps_offset=config.integer("steps_offset", 0, least=0),
        final_sigma=(
            "zero" if config.flag("set_alpha_to_one", class_name == "DDIMScheduler") else "min"
        ),
        sigmas=read_sigmas(config, sampler, has, spec.sigmas),
    )


def check_fixed(config: Config, class_name: str, fixed: Json) -> None:
    """Raise ValueError if a setting has a value that the sampler here does not support."""
    if config.flag("clip_sample", class_name in ("DDPMScheduler", "DDIMScheduler")):
        raise ValueError(
            f"{config.path}: clip_sample is true; latents are not clipped here, so it must be false"
        )
    for key, value in fixed.items():
        given = config.get(key)
        if given is None:  # the default of every class is the supported value, but for one setting
            given = False if key == "skip_prk_steps" else value
        if given != value:
            instead = "; use DDIMScheduler, which it must say here and in model_index.json"
            raise ValueError(
                f"{config.path}: {key} is {given!r}; in a {class_name} it must be {value!r}"
                f"{instead if key == 'prediction_type' else ''}"
            )


def read_schedule(config: Config, class_name: str, has: tuple[str, ...]) -> NoiseSchedule:
    """The noise schedule; has: which of KARRAS, LU and ZERO_SNR the class has."""
    heun = class_name == "HeunDiscreteScheduler"  # the only class with other defaults of the betas
    return NoiseSchedule(
        num_steps=config.integer("num_train_timesteps", 1000),
        beta_start=config.number("beta_start", 0.00085 if heun else 0.0001),
        beta_end=config.number("beta_end", 0.012 if heun else 0.02),
        kind=choice(config, "beta_schedule", "linear", KINDS),
        zero_terminal_snr=config.flag(ZERO_SNR) and ZERO_SNR in has,
    )


def read_sigmas(config: Config, sampler: str, has: tuple[str, ...], own: Sigmas) -> Sigmas:
    """The choice of sigmas, also for samplers that have none, if another one is chosen later.

    Args:
        config: The scheduler's file.
        sampler: The name of the sampler here.
        has: Which of KARRAS, LU and ZERO_SNR its class has.
        own: The choice of the system that the file belongs to, if the file does not say.
    """
    if config.flag(KARRAS) and (KARRAS in has or SAMPLERS[sampler].steps_in == "timestep"):
        return "karras"
    if config.flag(LU, LU not in has and own == "uniform_lambda"):
        return "uniform_lambda"
    return "table"


def choice(config: Config, key: str, default: str, choices: Mapping[str, Choice]) -> Choice:
    """The name here of an entry's published name; ValueError if that is not one of the choices."""
    name = config.text(key, default)
    if name not in choices:
        raise ValueError(f"{config.path}: {key} is {name!r}; known are {', '.join(choices)}")
    return choices[name]


# ------------------------------------------------------------------------------------------ writing


def scheduler_config_to_json(spec: ModelSpec) -> Json:
    """The content of scheduler/scheduler_config.json, without steps and guidance scale.

    Raises:
        ValueError: If the spacing, final_sigma or sampler is not known, or if the sampler's
            published class lacks a setting that the specification needs.
    """
    schedule = spec.schedule
    schedule.path(1, spec.spacing, spec.final_sigma, spec.steps_offset)  # raises for unknown names
    check_published(spec)
    name = CLASSES[spec.sampler]
    _, fixed, has = SCHEDULERS[name]
    content = {key: value for key, value in fixed.items() if value != -math.inf} | {
        "_class_name": name,
        "beta_end": schedule.beta_end,
        "beta_schedule": published_name(KINDS, schedule.kind),
        "beta_start": schedule.beta_start,
        "clip_sample": False,
        "num_train_timesteps": schedule.num_steps,
        "prediction_type": published_name(PUBLISHED_PREDICTIONS, spec.predicts),
        ZERO_SNR: schedule.zero_terminal_snr,
        "set_alpha_to_one": spec.final_sigma == "zero",
        "steps_offset": spec.steps_offset,
        "timestep_spacing": spec.spacing,
        "trained_betas": None,
    }
    if KARRAS in has or spec.sigmas == "karras":
        content[KARRAS] = spec.sigmas == "karras"
    # Without this entry, reading takes uniform_lambda from the system of this name.
    uniform = spec.sigmas == "uniform_lambda"
    system = SPECS.get(spec.name)
    implied = system is not None and (system.sigmas == "uniform_lambda") == uniform
    if LU in has or not implied:
        content[LU] = uniform
    return content


def published_name(choices: Mapping[str, object], value: object) -> str:
    """The published name of a value here."""
    return next(name for name, each in choices.items() if each == value)


def check_published(spec: ModelSpec) -> None:
    """Check that a published scheduler class computes the same as the model's sampler.

    Raises:
        ValueError: If the sampler has no published class, or if that would compute something else.
    """
    if spec.sampler not in CLASSES:
        raise ValueError(
            f"sampler {spec.sampler!r} cannot be saved: the samplers with a published scheduler "
            f"are {', '.join(CLASSES)}"
        )
    name = CLASSES[spec.sampler]
    needed = {}
    if spec.sigmas == "karras" and SAMPLERS[spec.sampler].steps_in != "timestep":
        needed["sigmas='karras'"] = KARRAS
    if spec.schedule.zero_terminal_snr:
        needed["zero_terminal_snr=True"] = ZERO_SNR
    for argument, setting in needed.items():
        if setting not in SCHEDULERS[name].has:
            others = ", ".join(p.sampler for p in SCHEDULERS.values() if setting in p.has)
            raise ValueError(
                f"sampler {spec.sampler!r} cannot be saved with {argument}: {name} has no setting "
                f"{setting}; choose one of {others}"
            )
    if spec.predicts == "velocity" and "prediction_type" in SCHEDULERS[name].fixed:
        others = ", ".join(
            p.sampler for p in SCHEDULERS.values() if "prediction_type" not in p.fixed
        )
        raise ValueError(
            f"sampler {spec.sampler!r} cannot be saved with predicts='velocity': {name} averages "
            f"velocities, not noise; choose one of {others}"
        )
