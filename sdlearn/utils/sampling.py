"""The settings of an image besides its prompt, defined in one place.

The fields of `Sampling` are the keyword arguments of the pipeline's methods, the settings in a PNG
file, the options of `sdlearn generate` and the controls of the playground. A field that is added
here appears in all four.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self, TypedDict, cast

from sdlearn.utils.validation import (
    LAST_SEED,
    check_clip_skip,
    check_images,
    check_interval,
    check_mapping,
    check_positive_int,
    check_scale,
    check_seed,
    check_side,
    check_text,
    check_unit_interval,
    shown,
)

SAMPLERS = ("ddim", "ddpm", "plms", "euler", "euler_ancestral", "heun", "lms", "dpm_pp_2m")


def check_sampler(name: str, value: object) -> str:
    """The value, if it is the name of a sampler."""
    sampler = check_text(name, value)
    if sampler not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise ValueError(f"{name} {shown(sampler)} is not known: the samplers are {known}")
    return sampler


class Knob(NamedTuple):
    """How the pipeline, a PNG file, the command line and the playground handle a field.

    Attributes:
        label: Its label in the playground.
        help: Its help on the command line and its tooltip in the playground.
        kind: The type of one value: int, float or str.
        check: (name, value) -> the value; raises ValueError if it cannot be used.
        low, high, step: The range of the playground's control; None for a field without one.
        option: Its option on the command line; "" for the field's own name.
        metavar: Its metavar on the command line.
        size: How many values make one setting.
        spec: The entry of ModelSpec that replaces None; "" if None is a value of its own.
        choices: The accepted strings; None if `check` or the sampler checks them.
        advanced: Whether the playground folds the control away.
    """

    label: str
    help: str
    kind: type
    check: Callable[[str, Any], Any]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    option: str = ""
    metavar: str | tuple[str, ...] = "N"
    size: int = 1
    spec: str = ""
    choices: tuple[str, ...] | None = None
    advanced: bool = True

    def checked(self, name: str, value: Any) -> Any:
        """Return the value; raise ValueError if it cannot be used."""
        checked = self.check(name, value)
        if self.choices is not None and checked not in self.choices:
            raise ValueError(
                f"{name} is {shown(value)}; it must be one of {', '.join(self.choices)}"
            )
        return checked

    def to_text(self, value: Any) -> str:
        """The text of a value in a PNG entry."""
        return " ".join(map(str, value)) if self.size > 1 else str(value)

    def from_text(self, name: str, text: str) -> Any:
        """The value from the text of a PNG entry; ValueError if it cannot be read."""
        try:
            values = tuple(map(self.kind, text.split() if self.size > 1 else [text]))
        except ValueError:
            what = "whole numbers" if self.kind is int else "numbers"
            raise ValueError(f"{name} is {shown(text)}; it must be {what}") from None
        if len(values) != self.size:
            raise ValueError(f"{name} is {shown(text)}; it must be {self.size} numbers")
        return values if self.size > 1 else values[0]


def knob(default: Any, *args: Any, **settings: Any) -> Any:
    """A field of Sampling: its default, then the arguments of its Knob."""
    return field(default=default, metadata={"knob": Knob(*args, **settings)})


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments."""

    steps: int | None
    guidance_scale: float | None
    sampler: str | None
    seed: int
    height: int | None
    width: int | None
    n: int
    sigmas: str | None
    eta: float
    guidance_rescale: float
    guidance_interval: tuple[float, float] | None
    clip_skip: int | None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """All settings of an image besides its prompt; None is the model's default.

    Attributes:
        steps: Number of denoising steps.
        guidance_scale: uncond + scale * (cond - uncond), where uncond is the negative prompt, or
            the empty one. 1 is off: the negative prompt has no influence. 0 ignores the prompt and
            follows the negative or empty one alone, between 0 and 1 is a mean of the two, and
            below 0 leads away from the prompt. diffusers treats every scale up to 1 as 1. Its
            recipes for distilled models say 0, which means 1 here.
        sampler: A name in samplers.SAMPLERS.
        seed: Image k draws all its noise on the CPU from its own generator with the seed seed + k,
            so it is the same alone and in a batch, up to rounding: a pixel may differ by one grey
            level. 0 … 2^63 - 1, also for the last image.
        height, width: In pixels, multiples of the autoencoder's factor.
        n: Images for each prompt.
        sigmas: The noise levels of the path, see NoiseSchedule.path.
        eta: Fresh noise of DDIM, 0 for none, 1 for that of DDPM.
        guidance_rescale: 0 … 1, see guidance.rescale_guidance.
        guidance_interval: (lo, hi), the timesteps of 0 … 999 with guidance; None for all.
        clip_skip: How many layers the text encoder leaves out at its end for the prompt, see
            text.TextEncoder; 0 or None for none. The web interfaces' "CLIP skip 2" is 1 here.

    Raises:
        ValueError: For a value that cannot be used.
    """

    steps: int | None = knob(
        None, "Steps", "denoising steps", int, check_positive_int, 1, 100, 1,
        spec="steps", advanced=False,
    )  # fmt: skip
    guidance_scale: float | None = knob(
        None, "Guidance scale", "guidance scale; 1 is off (some recipes for diffusers write 0 for "
        "off), 0 draws the negative or empty prompt alone", float, check_scale, 0, 15, 0.5,
        option="--guidance", metavar="SCALE", spec="guidance_scale", advanced=False,
    )  # fmt: skip
    sampler: str | None = knob(
        None, "Sampler", f"{', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}", str,
        check_sampler, metavar="NAME", spec="sampler", advanced=False,
    )  # fmt: skip
    seed: int = knob(
        0, "Seed", "seed of the first image; each further one has the next (default: 0)", int,
        check_seed, 0, 2**31 - 1, 1, advanced=False,
    )  # fmt: skip
    height: int | None = knob(
        None, "Height (pixels)", "in pixels", int, check_side, 8, 1024, 8, metavar="PX",
        spec="resolution",
    )  # fmt: skip
    width: int | None = knob(
        None, "Width (pixels)", "in pixels", int, check_side, 8, 1024, 8, metavar="PX",
        spec="resolution",
    )  # fmt: skip
    n: int = knob(
        1, "Images at once", "number of images (default: 1)", int, check_images, 1, 16, 1,
        advanced=False,
    )  # fmt: skip
    sigmas: str | None = knob(
        None, "Noise levels", "noise levels of the path: table, karras or uniform_lambda", str,
        check_text, metavar="NAME", choices=("table", "karras", "uniform_lambda"),
    )  # fmt: skip
    eta: float = knob(
        0.0, "Fresh noise (eta)", "fresh noise of ddim, 0 to 1 (default: 0)", float,
        check_unit_interval, 0, 1, 0.05, metavar="ETA",
    )  # fmt: skip
    guidance_rescale: float = knob(
        0.0, "Guidance rescale", "0 to 1, how far to undo the contrast that guidance adds "
        "(default: 0)", float, check_unit_interval, 0, 1, 0.05, metavar="PHI",
    )  # fmt: skip
    guidance_interval: tuple[float, float] | None = knob(
        None, "Guided timesteps", "guide only at the timesteps in this range, of 0 to 999", float,
        check_interval, 0, 999, 1, metavar=("LO", "HI"), size=2,
    )  # fmt: skip
    clip_skip: int | None = knob(
        0, "CLIP layers skipped", "leave out this many of the text encoder's last layers; 1 is "
        "CLIP skip 2 in web interfaces (default: 0)", int, check_clip_skip, 0, 12, 1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, each in knobs(type(self)).items():
            value = getattr(self, name)
            if value is not None or getattr(type(self), name) is not None:  # its default
                object.__setattr__(self, name, each.checked(name, value))
        if self.seed > LAST_SEED - (self.n - 1):
            raise ValueError(
                f"seed is {self.seed}; with n = {self.n} it must lie in 0 … 2^63 - {self.n}, "
                "because image k has the seed seed + k"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """From keyword arguments; names that are not fields are ignored."""
        check_mapping("options", options)
        return cls(**{name: options[name] for name in knobs(cls) if name in options})

    def to_options(self) -> SamplingOptions:
        """The fields as keyword arguments for the pipeline's methods."""
        return cast(SamplingOptions, {name: getattr(self, name) for name in knobs(type(self))})

    def with_defaults(self, spec: object) -> Self:
        """Replace each None by the default in a ModelSpec, if it has one."""
        return replace(
            self,
            **{
                name: getattr(spec, each.spec)
                for name, each in knobs(type(self)).items()
                if each.spec and getattr(self, name) is None
            },
        )

    def to_text(self) -> dict[str, str]:
        """The fields that are not None, as strings."""
        values = {name: (each, getattr(self, name)) for name, each in knobs(type(self)).items()}
        return {name: each.to_text(x) for name, (each, x) in values.items() if x is not None}

    @classmethod
    def from_text(cls, texts: Mapping[str, str]) -> Self:
        """From the strings of `to_text`; entries that are not fields are ignored.

        Raises:
            ValueError: For an entry that cannot be read.
        """
        check_mapping("texts", texts)
        given = {name: each for name, each in knobs(cls).items() if name in texts}
        return cls(**{name: each.from_text(name, texts[name]) for name, each in given.items()})


def knobs(sampling: type[Sampling]) -> dict[str, Knob]:
    """The fields of Sampling, by name."""
    return {each.name: each.metadata["knob"] for each in fields(sampling)}
