"""scheduler_config.json of a published folder, read into a specification and written from one.

    scheduler_config_from_json   scheduler_config_to_json

A published scheduler class is one sampler. Settings of the solver that no sampler here has are
replaced, with one warning: any good solver ends near the same image. Settings of the training, the
noise schedule and what the network predicts, are read exactly or refused. As published files do,
written files also have entries that their own class ignores and other classes use, so that they are
kept if the sampler is changed.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import PUBLISHED_PREDICTIONS, Kind, NoiseSchedule, Sigmas, Spacing
from sdlearn.utils.validation import shown
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights.json_config import Config, Json
from sdlearn.weights.scheduler_classes import (
    CLASSES,
    CORRECTED,
    DEFAULTS,
    EXPONENTIAL,
    FLOW,
    KARRAS,
    LU,
    OTHER_MODELS,
    SCHEDULERS,
    SUBSTITUTES,
    UNKNOWN,
    ZERO_SNR,
    PublishedScheduler,
)
from sdlearn.weights.scheduler_fallback import replaced_settings, sentence

Choice = TypeVar("Choice")

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
    path: Path, spec: ModelSpec, class_name: str | None = None, pipeline: str = ""
) -> ModelSpec:
    """Read scheduler/scheduler_config.json into a specification.

    Entries that the file lacks have the defaults of the class. What a pipeline class corrects
    in old files is corrected here. One warning says what is not supported and what is done instead;
    the caller's own choice of sampler= overrides it.

    Args:
        path: The file.
        spec: The specification to change.
        class_name: The scheduler's class in model_index.json, which overrides the one in the file.
        pipeline: The _class_name in model_index.json.

    Returns:
        The specification with the file's schedule, prediction, sampler and path.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is malformed, or if the model was trained in a way that is not
            supported.
    """
    config = Config(path)
    name = class_name or config.text("_class_name", "")
    published = published_class(config, name)
    complete(config, published, CORRECTED.get(pipeline, {}))
    check_training(config, name, published)
    schedule = read_schedule(config, published)
    replaced = list(replaced_settings(config, published, schedule)) if name in SCHEDULERS else []
    velocity = config["prediction_type"] == "v_prediction"
    sampler = "ddim" if published.sampler == "plms" and velocity else published.sampler
    read = replace(
        spec,
        schedule=schedule,
        predicts=choice(config, "prediction_type", PUBLISHED_PREDICTIONS),
        sampler=sampler,
        spacing=choice(config, "timestep_spacing", SPACINGS),
        steps_offset=config.integer("steps_offset", least=0, most=schedule.num_steps - 1),
        final_sigma="zero" if config.flag("set_alpha_to_one") else "min",
        sigmas=read_sigmas(config, published, spec.sigmas),
    )
    if name not in SCHEDULERS or replaced:
        warnings.warn(
            f"{path}: {sentence(name, replaced, sampler)}",
            stacklevel=7,  # of StableDiffusion.from_pretrained
        )
    return read


def published_class(config: Config, name: str) -> PublishedScheduler:
    """The class of this name, or the one that replaces it.

    Raises:
        ValueError: If a model with this class is not Stable Diffusion.
    """
    if any(word in name for word in OTHER_MODELS):
        raise ValueError(
            f"{config.path}: {shown(name)} has a noise schedule of its own, which none of the "
            f"samplers here can follow; supported classes are {', '.join(SCHEDULERS)}"
        )
    return SCHEDULERS.get(name) or SUBSTITUTES.get(name) or UNKNOWN


def complete(config: Config, published: PublishedScheduler, corrected: Json) -> None:
    """Add the defaults of the class to the file's entries, and correct them for the pipeline."""
    for key in config.texts("_use_default_values", ()):  # defaults of the class that wrote them
        config.pop(key, None)
    if config.get("prediction_type") is None:  # null means the default
        config.pop("prediction_type", None)
    for key, value in {**DEFAULTS, **published.defaults}.items():
        config.setdefault(key, value)
    for key, value in corrected.items():
        if key == "steps_offset":
            if config[key] is not None:
                config.integer(key, least=0)  # raises for what is not an offset
            config[key] = value
        elif config.get(key, value) is (not value):  # null is left
            config[key] = value


def check_training(config: Config, name: str, published: PublishedScheduler) -> None:
    """Raise ValueError for a model that was trained in a way that is not supported."""
    wrong = {"trained_betas": "a table of betas"}
    if FLOW in published.has:
        wrong[FLOW] = "flow matching"
    if name == "EulerDiscreteScheduler" and config["prediction_type"] == "v_prediction":
        wrong["timestep_type"] = "a network that is given the noise level instead of the timestep"
    for key, what in wrong.items():
        if config.get(key) not in (None, False, "discrete"):
            raise ValueError(
                f"{config.path}: {key} is {shown(config[key])}; {what} is not supported"
            )


def read_schedule(config: Config, published: PublishedScheduler) -> NoiseSchedule:
    """The noise schedule."""
    for key in ("beta_start", "beta_end"):
        if config.number(key) >= 1:
            raise config.wrong(key, "a variance, above 0 and below 1")
    return NoiseSchedule(
        num_steps=config.integer("num_train_timesteps"),
        beta_start=config.number("beta_start"),
        beta_end=config.number("beta_end"),
        kind=choice(config, "beta_schedule", KINDS),
        zero_terminal_snr=config.flag(ZERO_SNR) and ZERO_SNR in published.has,
    )


def read_sigmas(config: Config, published: PublishedScheduler, own: Sigmas) -> Sigmas:
    """The choice of sigmas, also for samplers that have none, if another one is chosen later.

    Args:
        config: The scheduler's file.
        published: Its class.
        own: The choice of the system that the file belongs to, if the file does not say.
    """
    steps_in = SAMPLERS[published.sampler].steps_in
    if config.flag(KARRAS) and (KARRAS in published.has or steps_in == "timestep"):
        return "karras"
    if config.flag(LU, LU not in published.has and own == "uniform_lambda"):
        return "uniform_lambda"
    if EXPONENTIAL in published.settings and config.get(EXPONENTIAL):
        return "uniform_lambda" if steps_in == "lambda" else "karras"
    return "table"


def choice(config: Config, key: str, choices: Mapping[str, Choice]) -> Choice:
    """The name here of an entry's published name; ValueError if that is not one of the choices."""
    name = config.text(key)
    if name not in choices:
        raise ValueError(f"{config.path}: {key} is {shown(name)}; accepted: {', '.join(choices)}")
    return choices[name]


# ------------------------------------------------------------------------------------------ writing


def scheduler_config_to_json(spec: ModelSpec, pipeline: str = "") -> Json:
    """The content of scheduler/scheduler_config.json, without steps and guidance scale.

    Args:
        spec: The specification.
        pipeline: The _class_name in model_index.json.

    Raises:
        ValueError: If the spacing, final_sigma or sampler is not known, if the sampler's published
            class lacks a setting that the specification needs, or if the pipeline changes one.
    """
    schedule = spec.schedule
    offset = CORRECTED.get(pipeline, {}).get("steps_offset", spec.steps_offset)
    if spec.spacing == "leading" and spec.steps_offset != offset:
        raise ValueError(
            f"steps_offset {spec.steps_offset} cannot be saved: a {pipeline} sets it to {offset} "
            f"when it is loaded; set steps_offset={offset} in the specification"
        )
    schedule.path(1, spec.spacing, spec.final_sigma, spec.steps_offset)  # raises for unknown names
    check_published(spec)
    name = CLASSES[spec.sampler]
    published = SCHEDULERS[name]
    has = published.has
    settings = {key: values[0] for key, values in published.settings.items()}
    content = {key: value for key, value in settings.items() if value is not None} | {
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
    if spec.predicts == "velocity" and "prediction_type" in SCHEDULERS[name].settings:
        others = ", ".join(
            p.sampler for p in SCHEDULERS.values() if "prediction_type" not in p.settings
        )
        raise ValueError(
            f"sampler {spec.sampler!r} cannot be saved with predicts='velocity': {name} averages "
            f"velocities, not noise; choose one of {others}"
        )
