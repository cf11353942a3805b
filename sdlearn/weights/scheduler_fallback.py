"""What is done instead of the settings of a published scheduler that no sampler here has.

Only settings of the solver are replaced, by the closest setting that the samplers here have, on
the same noise schedule. One sentence says what is replaced, and by what.
"""

from collections.abc import Iterator
from typing import Any

from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule
from sdlearn.utils.validation import shown
from sdlearn.weights.json_config import Config
from sdlearn.weights.scheduler_classes import (
    BETA,
    CLIP,
    EXPONENTIAL,
    KARRAS,
    LU,
    PRK,
    THRESHOLD,
    PublishedScheduler,
)

Replaced = tuple[str, str]  # what the file says, and what is done instead


def replaced_settings(
    config: Config, published: PublishedScheduler, schedule: NoiseSchedule
) -> Iterator[Replaced]:
    """What the file says that the sampler here does not do, and what it does instead."""
    for key in (CLIP, THRESHOLD):
        if key in published.has and config.flag(key):
            yield f"{key} True", f"{key} False"
    for key, values in published.settings.items():
        given = config.get(key)
        # For most settings, null or no entry is the value that is supported.
        if given in values or (given is None and key != PRK):
            continue
        if has_effect(config, key, schedule):
            yield f"{key} {shown(given)}", instead(published.sampler, key, values[0])
    even = next((key for key in (KARRAS, LU) if key in published.has and config.flag(key)), None)
    if even and schedule.kind == "cosine" and SAMPLERS[published.sampler].steps_in == "lambda":
        # The class cuts the timesteps off there, so that rounding errors decide on some.
        yield f"{even} True and beta_schedule 'squaredcos_cap_v2'", "rounded timesteps"
    if published.sampler in ("ddim", "plms") and config["timestep_spacing"] != "leading":
        # From each timestep, these two classes take a fixed stride, and so miss the next one.
        # With "trailing" it misses by one, unless the number of steps divides that of timesteps.
        # A file that diffusers did not write, such as ours, promises no such steps.
        trailing = config["timestep_spacing"] == "trailing"
        if not trailing or "_diffusers_version" in config:
            rest = f" if their number does not divide {config['num_train_timesteps']}"
            yield (
                "steps that miss the next timestep, as timestep_spacing "
                f"{config['timestep_spacing']!r} has them{rest if trailing else ''},",
                "steps from each timestep to the next",
            )


def has_effect(config: Config, key: str, schedule: NoiseSchedule) -> bool:
    """Whether a setting changes anything, given the other entries."""
    if key in ("sigma_min", "sigma_max"):
        return any(config.flag(sigmas) for sigmas in (KARRAS, EXPONENTIAL, BETA))
    if key == "timestep_type":
        return False
    if key == "lambda_min_clipped":
        value = config[key]
        if not isinstance(value, int | float):
            raise config.wrong(key, "a number")
        return bool((-schedule.sigmas.log() < value).any())
    return True


def instead(sampler: str, key: str, value: Any) -> str:
    """What replaces a setting that is not supported."""
    if key == "prediction_type":
        return "the sampler 'ddim'"
    if key == EXPONENTIAL:
        return f"{LU if SAMPLERS[sampler].steps_in == 'lambda' else KARRAS} True"
    return f"{key} {value!r}"


def sentence(name: str, replaced: list[Replaced], sampler: str) -> str:
    """What was replaced by what; `replaced` is empty if the whole class was."""
    if replaced:
        given, done = (" and ".join(dict.fromkeys(each)) for each in zip(*replaced, strict=True))
        return f"{name} with {given} is not supported; images are generated with {done} instead"
    what = f"the scheduler class {shown(name)} is not supported" if name else "it names no class"
    return (
        f"{what}; images are generated with the sampler {sampler!r} on the same noise schedule, "
        "unless sampler= is given"
    )
