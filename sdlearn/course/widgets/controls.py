"""A control for every field of Sampling, made from what the field says of itself."""

from typing import Any

import ipywidgets as widgets

from sdlearn.samplers import SAMPLERS
from sdlearn.text import most_layers_skipped
from sdlearn.utils import sampling
from sdlearn.utils.sampling import Knob, Sampling
from sdlearn.versions import ModelSpec

OWN = "the model's own"
LONGEST_SLIDER = 1000  # steps; a longer range is typed in
ROW = {
    "style": {"description_width": "8.5em"},
    "layout": widgets.Layout(width="auto", max_width="30em"),
}


def controls(spec: ModelSpec) -> dict[str, widgets.Widget]:
    """A control for each field that has one, by the field's name, set to the model's own."""
    defaults = sampling.Sampling().with_defaults(spec)
    return {
        name: control(name, knob, getattr(defaults, name))
        for name, knob in knobs_of(spec).items()
        if has_control(name, knob)
    }


def knobs_of(spec: ModelSpec) -> dict[str, Knob]:
    """The fields of Sampling, with ranges that this model has and that hold its own settings."""
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
    """Whether the playground can set it: it has a range, or a list of values."""
    return knob.high is not None or bool(values(name, knob))


def values(name: str, knob: Knob) -> tuple[str, ...]:
    """The values to choose from, () for a number."""
    return tuple(SAMPLERS) if name == "sampler" else knob.choices or ()


def control(name: str, knob: Knob, value: Any) -> widgets.Widget:
    """The control of one field, showing this value; None is the model's own, or the whole range."""
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


def sampling_of(shown: dict[str, widgets.Widget], spec: ModelSpec) -> Sampling:
    """What the controls of a model say. Raises ValueError for what cannot be used."""
    known = knobs_of(spec)
    return sampling.Sampling(**{name: value_of(each, known[name]) for name, each in shown.items()})


def value_of(shown: widgets.Widget, knob: Knob) -> Any:
    """The value of one control. A range from end to end is None, and so is the model's own."""
    return None if shown.value in (shown_value(knob, None), None) else shown.value


def shown_value(knob: Knob, value: Any) -> Any:
    """What a control shows for a value: for None the whole range, or the model's own."""
    if value is not None:
        return value
    return (knob.low, knob.high) if knob.size == 2 else OWN


def show(shown: dict[str, widgets.Widget], wanted: Sampling, spec: ModelSpec) -> None:
    """Let the controls show these settings, and the model's own for each None.

    Raises ValueError, with nothing changed, where one of them cannot.
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
