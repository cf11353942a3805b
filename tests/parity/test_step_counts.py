"""Any number of steps: the last step ends, and the first one starts, where diffusers has it."""

import diffusers
import pytest

from sdlearn.pipeline import StableDiffusion

from .test_scheduler_settings import (  # noqa: F401
    PLAIN,
    TOLERANCE,
    difference,
    double,
    read,
)

# Where 1000 is no multiple, and where the last stride ends in the table: of 1 with an offset of 1,
# of 1 and 2 with an offset of 3.
STEPS = (1, 2, 7, 333, 334, 501, 999)
ALONG_THE_LIST = (
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
# Class, spacing, offset, set_alpha_to_one -> steps.
CASES = {
    **{
        (name, "leading", offset, clean): STEPS[: 7 if offset < 3 else 6]
        for name in ("DDIMScheduler", "PNDMScheduler")
        for offset in (0, 1, 3)
        for clean in (False, True)
    },
    **{
        (name, spacing, 1, False): (1, 7, 334, 501)
        for name in ALONG_THE_LIST
        for spacing in ("leading", "trailing", "linspace")
    },
}


def scheduler_file(name, spacing="leading", offset=1, clean=False):
    """The entries of a scheduler's file."""
    return PLAIN | {
        "_class_name": name,
        "_diffusers_version": "0.42.0",
        "timestep_spacing": spacing,
        "steps_offset": offset,
        "set_alpha_to_one": clean,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_every_step_is_that_of_diffusers(case, tmp_path, monkeypatch, double):  # noqa: F811
    config = scheduler_file(*case)
    spec, said = read(config, tmp_path)
    assert not said
    for steps in CASES[case]:
        scheduler = getattr(diffusers, case[0]).from_config(config)
        assert difference(scheduler, spec, monkeypatch, steps) <= TOLERANCE, steps


@pytest.mark.parametrize(
    ("name", "offset", "steps"),
    [
        ("EulerDiscreteScheduler", 1, 1000),
        ("EulerAncestralDiscreteScheduler", 3, 500),
        ("HeunDiscreteScheduler", 3, 999),
        ("LMSDiscreteScheduler", 1, 1000),
        ("DPMSolverMultistepScheduler", 1, 999),
        ("DPMSolverMultistepScheduler", 3, 499),
    ],
)
def test_an_offset_without_room_is_refused(name, offset, steps, tmp_path):
    """There diffusers calls the network at timesteps that it was not trained for."""
    spec, _ = read(scheduler_file(name, offset=offset), tmp_path)
    sd = StableDiffusion(None, None, None, spec)
    words = f'^steps is {steps}; with steps_offset {offset}, "leading" spacing has no room for them'
    with pytest.raises(ValueError, match=words):
        sd.path(steps)
    assert len(sd.path(steps - 2)) == steps - 1


def test_an_offset_past_the_last_timestep_is_refused(tmp_path):
    said, _ = read(scheduler_file("DDIMScheduler", offset=1000), tmp_path)
    assert said.endswith("steps_offset is 1000; it must be a whole number from 0 to 999")
