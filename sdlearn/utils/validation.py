"""Check numbers, strings and prompts before any work.

Each function returns the value or raises a ValueError of one sentence: the argument, its value, and
what is accepted. This module imports neither torch nor transformers, so that the command line can
check its options at once.
"""

import math
import reprlib
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import index
from pathlib import Path

# The text encoders read 75 tokens of a prompt. Splitting one of this many characters into tokens
# still takes no noticeable time.
LONGEST_PROMPT = 100_000
LONGEST_SIDE = 2**14  # pixels
LONGEST_PATH = 4096  # characters, as on Linux
CONTROLS = ("Cc", "Zl", "Zp")  # Unicode's categories of control characters and line breaks
MOST_IMAGES = 2**16
# Of a scale: float32 holds what a network makes of it. Scales of use have one or two digits.
LARGEST_SCALE = 1e6
LAST_SEED = 2**63 - 1


def shown(value: object) -> str:
    """A value as messages show it: as Python writes it, on one line, of at most 160 characters.

    The names of tensors and classes are shown whole; those of published systems have up to 110
    characters.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 120
    try:
        text = short.repr(value)
    except Exception:  # an integer with more digits than Python converts, or a repr that fails
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())  # a tensor's repr has several lines
    return text if len(text) <= 160 else f"{text[:107]} … {text[-50:]}"


def one_line(message: object, most: int = 480) -> str:
    """A message as the command line prints it: one line, of at most so many characters."""
    text = " ".join(str(message).split()) or type(message).__name__
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    end = most // 4
    return text if len(text) <= most else f"{text[: most - end - 3]} … {text[-end:]}"


def dtype_name(value: object) -> str:
    """The dtype of an array, a tensor or one of their elements, such as "float32"; else ""."""
    return str(getattr(value, "dtype", "")).removeprefix("torch.")


def check_bool(name: str, value: object) -> bool:
    """The value, if it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}; it must be True or False")
    return value


def check_mapping(name: str, value: object) -> None:
    """Raise ValueError unless the value is a dictionary, or another mapping."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {shown(value)}; it must be a dictionary")


def check_int(name: str, value: object) -> int:
    """The value as an int, if it is a whole number, which NumPy's integers are."""
    try:
        if not isinstance(value, bool) and dtype_name(value) != "bool":
            return index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # of an array, or a tensor without data
        pass
    raise ValueError(f"{name} is {shown(value)}; it must be a whole number")


def check_range(name: str, value: object, low: int, high: int) -> int:
    """The value as an int, if it is a whole number in low … high."""
    number = check_int(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} is {shown(number)}; it must lie in {low} … {high}")
    return number


def check_positive_int(name: str, value: object) -> int:
    """The value, if it is a whole number of at least 1."""
    number = check_int(name, value)
    if number < 1:
        raise ValueError(f"{name} is {shown(number)}; it must be at least 1")
    return number


def check_images(name: str, value: object) -> int:
    """The value, if so many images could be made for a prompt."""
    check_positive_int(name, value)
    return check_range(name, value, 1, MOST_IMAGES)


def check_side(name: str, value: object) -> int:
    """The value, if it could be the height or the width of an image, in pixels."""
    check_positive_int(name, value)
    return check_range(name, value, 1, LONGEST_SIDE)


def check_seed(name: str, value: object) -> int:
    """The value, if it can seed an image's noise."""
    seed = check_int(name, value)
    if not 0 <= seed <= LAST_SEED:
        random = "; for a random one, give random.randrange(2**31)" if seed == -1 else ""
        raise ValueError(f"{name} is {shown(seed)}; it must lie in 0 … 2^63 - 1{random}")
    return seed


def check_clip_skip(name: str, value: object) -> int:
    """The value, if it is a number of layers; 0, for none, if it is None."""
    layers = 0 if value is None else check_int(name, value)
    if layers < 0:
        raise ValueError(f"{name} is {shown(layers)}; it must be 0, which skips nothing, or more")
    return layers


def check_text(name: str, value: object) -> str:
    """The value, if it is a string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}; it must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:  # Python reads other bytes of the command line as lone surrogates
        raise ValueError(
            f"{name} is {shown(value)}, which is not UTF-8; it must be Unicode text"
        ) from None
    return value


def has_control(text: str) -> bool:
    """Whether a text has a line break or another control character."""
    return any(unicodedata.category(character) in CONTROLS for character in text)


def check_place(value: object, name: str = "source") -> str | Path:
    """The value, if it is a path, or a string that could be one.

    Control characters are refused here, so that no message that names a path has a second line.
    """
    if isinstance(value, str | Path):
        text = str(value)
        if has_control(text):
            raise ValueError(
                f"{name} is {shown(text)}; a path with a line break or another control character "
                "is not accepted, so rename it"
            )
        if text.strip() and len(text) <= LONGEST_PATH:
            return value
    raise ValueError(
        f"{name} is {shown(value)}; it must be a folder, a file or the id of a model, as a string "
        "or a Path"
    )


def check_finite(name: str, value: object) -> float:
    """The value as a float, if it is a finite number."""
    number = math.nan
    single = not isinstance(value, bool | str | bytes | bytearray) and not getattr(value, "ndim", 0)
    if single and not dtype_name(value).startswith(("bool", "complex")):
        with suppress(TypeError, ValueError, ArithmeticError, RuntimeError):  # such as 10**400
            number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{name} is {shown(value)}; it must be a finite number")
    return number


def check_scale(name: str, value: object) -> float:
    """The value, if a network's output can be multiplied by it."""
    number = check_finite(name, value)
    if abs(number) > LARGEST_SCALE:
        raise ValueError(f"{name} is {shown(value)}; it must lie in -1000000 … 1000000")
    return number


def check_unit_interval(name: str, value: object) -> float:
    """The value, if it lies in 0 … 1."""
    number = check_finite(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} is {shown(value)}; it must lie in 0 … 1")
    return number


def check_interval(name: str, value: object) -> tuple[float, float] | None:
    """The value as a pair (lo, hi), if it is two finite numbers with lo <= hi, or None."""
    if value is None:
        return None
    if not (isinstance(value, tuple | list) and len(value) == 2):
        raise ValueError(f"{name} is {shown(value)}; it must be two numbers, (lo, hi)")
    lo, hi = (check_finite(name, end) for end in value)
    if lo > hi:
        raise ValueError(f"{name} is {shown(value)}; it must be (lo, hi) with lo <= hi")
    return lo, hi


def as_prompts(name: str, value: object) -> list[str]:
    """One prompt, or a list of prompts, as a list."""
    prompts = [value] if isinstance(value, str) else value
    if (
        not isinstance(prompts, list)
        or not prompts
        or not all(isinstance(prompt, str) for prompt in prompts)
    ):
        raise ValueError(f"{name} is {shown(value)}; it must be a string or a list of strings")
    return [check_prompt(name, prompt) for prompt in prompts]


def check_prompt(name: str, prompt: str) -> str:
    """The prompt, if it is Unicode text of a plausible length."""
    if len(prompt) > LONGEST_PROMPT:
        raise ValueError(
            f"{name} has {len(prompt)} characters; it must have at most {LONGEST_PROMPT}, and the "
            "text encoder reads only the first 75 tokens"
        )
    return check_text(name, prompt)


def repeat_prompts(prompts: list[str], n: int) -> list[str]:
    """Each prompt n times in a row."""
    return [prompt for prompt in prompts for _ in range(n)]


def negative_prompts(
    negative: str | list[str] | None, prompts: Sequence[str], n: int
) -> list[str] | None:
    """One negative prompt for each image.

    Args:
        negative: One for all, or one for each prompt; None remains None.
        prompts: The prompts, each n times, as `repeat_prompts` returns them.
        n: Images for each prompt.

    Raises:
        ValueError: If the numbers of negative prompts and prompts differ.
    """
    if negative is None:
        return None
    if isinstance(negative, str):
        return [check_prompt("negative_prompt", negative)] * len(prompts)
    each = repeat_prompts(as_prompts("negative_prompt", negative), n)
    if len(each) != len(prompts):
        raise ValueError(
            f"negative_prompt has {len(each) // n} entries for {len(prompts) // n} prompts; "
            "give one for all, or one for each"
        )
    return each
