"""The X/Y comparison: the values of two settings, and the settings of every cell."""

from dataclasses import dataclass, replace
from typing import Any

from sdlearn.course.widgets.controls import knobs_of, values
from sdlearn.utils.png_metadata import GenerationSettings
from sdlearn.utils.sampling import Knob
from sdlearn.utils.validation import shown
from sdlearn.versions import ModelSpec

TEXTS = {"prompt": "Prompt", "negative_prompt": "Negative prompt"}
MOST_CELLS = 36
SUGGESTED = {
    "prompt": "a red cat on the sand\na red cat in the snow",
    "negative_prompt": "snow\na house",
    "steps": "5, 10, 30",
    "guidance_scale": "1, 3, 6",
    "sampler": "ddim, euler, dpm_pp_2m",
    "seed": "0, 1, 2",
    "height": "64, 96",
    "width": "64, 96",
    "sigmas": "table, karras",
    "eta": "0, 0.5, 1",
    "guidance_rescale": "0, 0.5, 1",
    "guidance_interval": "0 999, 200 800",
    "clip_skip": "0, 1",
}


@dataclass(frozen=True)
class Axis:
    """One setting and the values that it takes along an axis.

    Attributes:
        name: "prompt", "negative_prompt" or a field of Sampling.
        label: Its label on the page.
        values: Its values, at least one.
    """

    name: str
    label: str
    values: tuple[Any, ...]

    def headings(self) -> list[str]:
        """Return a heading for each value."""
        if self.name in TEXTS:
            return [f"“{value}”" for value in self.values]
        return [f"{self.label} {in_words(value)}" for value in self.values]


def choices(spec: ModelSpec) -> dict[str, str]:
    """Return the settings that can be compared, by label; not `n`, as a cell has one image."""
    known = knobs_of(spec)
    names = {knob.label: name for name, knob in known.items() if name != "n"}
    return {label: name for name, label in TEXTS.items()} | names


def parse_axis(name: str, text: str, spec: ModelSpec) -> Axis:
    """Read the values of an axis.

    Args:
        name: "prompt", "negative_prompt" or a field of Sampling.
        text: The values, separated by commas or line ends; prompts by line ends only.
        spec: The model, whose ranges apply.

    Raises:
        ValueError: For a value that the setting doesn't accept, in a sentence that names it.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name in TEXTS:
        if not lines:
            raise ValueError(f"{TEXTS[name]} has no values; write each on a line of its own")
        return Axis(name, TEXTS[name], tuple(lines))
    knob = knobs_of(spec)[name]
    pieces = [piece.strip() for line in lines for piece in line.split(",") if piece.strip()]
    if not pieces:
        raise ValueError(
            f"{knob.label} has no values; give at least one, and separate them with commas"
        )
    return Axis(name, knob.label, tuple(parse_value(name, knob, piece) for piece in pieces))


def parse_value(name: str, knob: Knob, text: str) -> Any:
    """Read one value of a knob; a ValueError says in a sentence what is accepted."""
    accepted = values(name, knob)
    if accepted:
        if text not in accepted:
            raise ValueError(
                f"{knob.label} is {shown(text)}; it must be one of {', '.join(accepted)}"
            )
        return text
    low, high = knob.low or 0, knob.high or 0
    what = "a whole number" if knob.kind is int else "a number"
    wanted = f"{what} from {low:.12g} to {high:.12g}"
    if knob.size > 1:
        wanted = f"{knob.size} numbers from {low:.12g} to {high:.12g}, separated by a space"
    wrong = ValueError(f"{knob.label} is {shown(text)}; it must be {wanted}")
    try:
        value = knob.checked(name, knob.from_text(name, text))
    except ValueError:
        raise wrong from None
    if not all(low <= each <= high for each in (value if knob.size > 1 else (value,))):
        raise wrong
    return value


def table(base: GenerationSettings, columns: Axis, rows: Axis) -> list[list[GenerationSettings]]:
    """Return the settings of each cell, row by row; all others are those of `base`, with n = 1.

    Raises:
        ValueError: If both axes are the same setting, or there are too many cells.
    """
    if columns.name == rows.name:
        raise ValueError(
            f"columns and rows are both {columns.label}; choose two different settings"
        )
    count = len(columns.values) * len(rows.values)
    if count > MOST_CELLS:
        raise ValueError(f"the table would have {count} images; it holds at most {MOST_CELLS}")
    single = replace(base, sampling=replace(base.sampling, n=1))
    return [
        [changed(changed(single, rows.name, y), columns.name, x) for x in columns.values]
        for y in rows.values
    ]


def changed(settings: GenerationSettings, name: str, value: Any) -> GenerationSettings:
    """Return the settings with one of them changed."""
    if name == "prompt":
        return replace(settings, prompt=value)
    if name == "negative_prompt":
        return replace(settings, negative_prompt=value)
    return replace(settings, sampling=replace(settings.sampling, **{name: value}))


def in_words(value: Any) -> str:
    """Return a value as a heading shows it."""
    if isinstance(value, tuple):
        return " to ".join(f"{each:g}" for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
