"""How long a training goes on, and how often it saves, checked before the first step."""

from collections.abc import Callable
from dataclasses import dataclass

from sdlearn.utils.validation import check_positive_int, shown

MAX_STEPS = 99_999_999  # a checkpoint's name has eight digits
MAX_MINUTES = 1_000_000  # two years


@dataclass(frozen=True)
class RunLimits:
    """The limits of one run of `sdlearn.training.train`, which describes them.

    Raises:
        ValueError: If a number is out of range.
    """

    steps: int
    minutes: float | None
    should_stop: Callable[[], bool]
    checkpoint_steps: int | None
    checkpoint_seconds: float
    samples_seconds: float

    def __post_init__(self) -> None:
        if check_positive_int("steps", self.steps) > MAX_STEPS:
            raise ValueError(f"steps is {shown(self.steps)}; it must be at most {MAX_STEPS}")
        if self.checkpoint_steps is not None:
            check_positive_int("checkpoint_steps", self.checkpoint_steps)
        if self.minutes is not None:
            check_minutes("minutes", self.minutes)
        for name in ("checkpoint_seconds", "samples_seconds"):
            value = getattr(self, name)
            if not (is_number(value) and value >= 0):
                raise ValueError(f"{name} is {shown(value)}; it must be 0 or more")

    def late(self, seconds: float) -> bool:
        """Whether the time limit has passed after this many seconds."""
        return self.minutes is not None and seconds > 60 * self.minutes

    def checkpoint_due(self, step: int, seconds: float) -> bool:
        """Whether to write a checkpoint after a step, so many seconds after the last one."""
        every = self.checkpoint_steps
        return seconds > self.checkpoint_seconds or (every is not None and step % every == 0)


def check_minutes(name: str, value: float) -> float:
    """The value, if it is a number of minutes above 0 and at most `MAX_MINUTES`."""
    if not (is_number(value) and 0 < value <= MAX_MINUTES):
        raise ValueError(
            f"{name} is {shown(value)}; accepted: more than 0 and at most {MAX_MINUTES}"
        )
    return value


def is_number(value: object) -> bool:
    """Whether a value is an int or a float; NaN is one, and fails every comparison."""
    return isinstance(value, int | float) and not isinstance(value, bool)
