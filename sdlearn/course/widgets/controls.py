"""A control for every field of Sampling, built from the description in the field's Knob."""

from typing import Any

import ipywidgets as widgets

from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import sigmas_for
from sdlearn.text import most_layers_skipped
from sdlearn.utils import sampling
from sdlearn.utils.sampling import Knob, Sampling
from sdlearn.versions import ModelSpec

OWN = "the model's own"
LONGEST_SLIDER = 1000  # steps; a longer range gets a number field instead
ROW = {
    "style": {"description_width": "10.5em"},
    "layout": {"width": "auto", "max_width": "30em"},  # all would share a Layout
}


def controls(spec: ModelSpec) -> dict[str, widgets.Widget]:
    """Return a control for each field that has one, by field name, set to the model's default."""
    defaults = sampling.Sampling().with_defaults(spec)
    return {
        name: control(name, knob, getattr(defaults, name))
        for name, knob in knobs_of(spec).items()
        if has_control(name, knob)
    }


def knobs_of(spec: ModelSpec) -> dict[str, Knob]:
    """Return the knobs of Sampling's fields, with ranges that include this model's defaults."""
    known, steps = sampling.knobs(sampling.Sampling), spec.schedule.num_steps
    high = {
        "steps": min(known["steps"].high or steps, steps),
        "guidance_interval": steps - 1,
        "clip_skip": most_layers_skipped(spec.text, spec.text_layer),
        "height": max(known["height"].high or 0, spec.resolution),
        "width": max(known["width"].high or 0, spec.resolution),
    }
    return {name: knob._replace(high=high.get(name, knob.high)) for name, knob in known.items()}


def has_control(name: str, knob: Knob) -> bool:
    """Return whether the playground can set a field, which takes a range or a list of values."""
    return knob.high is not None or bool(values(name, knob))


def values(name: str, knob: Knob) -> tuple[str, ...]:
    """Return the values to choose from; () for a numeric field."""
    return tuple(SAMPLERS) if name == "sampler" else knob.choices or ()


def control(name: str, knob: Knob, value: Any) -> widgets.Widget:
    """Return the control of a field; the value None is the model's default or the whole range."""
    row = ROW | {"description": knob.label, "tooltip": knob.help}
    if values(name, knob):
        options = [*values(name, knob)] if knob.spec else [OWN, *values(name, knob)]
        return widgets.Dropdown(options=options, value=shown_value(knob, value), **row)
    ends = {"min": knob.low, "max": knob.high, "step": knob.step}
    if knob.size == 2:
        whole = shown_value(knob, value)
        return widgets.FloatRangeSlider(value=whole, readout_format=".0f", **ends, **row)
    if knob.kind is int:
        long = (knob.high or 0) - (knob.low or 0) > LONGEST_SLIDER * (knob.step or 1)
        kind = widgets.BoundedIntText if long else widgets.IntSlider
        return kind(value=value, **ends, **row)
    return widgets.FloatSlider(value=value, **ends, **row)


def refusals(sampler: str) -> dict[str, str]:
    """Return, by field name, a sentence that tells the reader why a sampler refuses a setting."""
    method, said = SAMPLERS[sampler], {}
    takers = " and ".join(name for name, each in SAMPLERS.items() if each.has_eta)
    if not method.has_eta:
        said["eta"] = f"{sampler} has no eta; only {takers} has one."
    if len(sigmas_for(method.steps_in)) == 1:
        said["sigmas"] = (
            f"{sampler} steps from timestep to timestep, so its noise levels are the schedule's."
        )
    return said


def adapt(shown: dict[str, widgets.Widget]) -> dict[str, str]:
    """Disable the settings that the chosen sampler refuses, and list only values it accepts.

    Args:
        shown: The controls, by field name.

    Returns:
        Why each setting is refused, by field name.
    """
    method = SAMPLERS[shown["sampler"].value]
    said = refusals(shown["sampler"].value)
    for name in ("eta", "sigmas"):
        shown[name].disabled = name in said
    if "eta" in said:
        shown["eta"].value = 0
    levels, options = shown["sigmas"], (OWN, *sigmas_for(method.steps_in))
    if tuple(levels.options) != options:
        kept = levels.value if levels.value in options else OWN
        levels.options, levels.value = options, kept
    return said


def sampling_of(shown: dict[str, widgets.Widget], spec: ModelSpec) -> Sampling:
    """Return the settings that the controls show.

    Raises:
        ValueError: If a setting cannot be used.
    """
    known = knobs_of(spec)
    return sampling.Sampling(**{name: value_of(each, known[name]) for name, each in shown.items()})


def value_of(shown: widgets.Widget, knob: Knob) -> Any:
    """Return the value of a control; None for the model's default or the whole range."""
    return None if shown.value in (shown_value(knob, None), None) else shown.value


def shown_value(knob: Knob, value: Any) -> Any:
    """Return what a control shows for a value; for None, OWN or the whole range."""
    if value is not None:
        return value
    return (knob.low, knob.high) if knob.size == 2 else OWN


def show(shown: dict[str, widgets.Widget], wanted: Sampling, spec: ModelSpec) -> None:
    """Make the controls show these settings, with the model's default for each None.

    Raises:
        ValueError: If a control cannot show its setting; in that case nothing changes.
    """
    wanted = wanted.with_defaults(spec)
    known = knobs_of(spec)
    for name, knob in known.items():
        value = getattr(wanted, name)
        if name not in shown:
            if value != getattr(sampling.Sampling(), name):
                raise ValueError(f"{name} is {value}; there is no control for it here")
            continue
        for each in value if isinstance(value, tuple) else (value,):
            fits = isinstance(each, str) or each is None or knob.low is None or knob.high is None
            if not fits and not knob.low <= each <= knob.high:
                raise ValueError(
                    f"{name} is {each}; its control goes from {knob.low:.12g} to {knob.high:.12g}"
                )
    for name, each in shown.items():
        each.value = shown_value(known[name], getattr(wanted, name))
