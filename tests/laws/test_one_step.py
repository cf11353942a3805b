"""How much of the package one denoising step reads through: few files, short ones, and few calls
from the sampler to the network."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest

import sdlearn
from sdlearn import pipeline
from sdlearn.unet import UNet

PACKAGE = Path(sdlearn.__file__).parent
PROMPT = "a red cat to the left of a blue house on the sand at night"
MOST_FILES, MOST_LINES, MOST_FRAMES = 6, 320, 4


class Trace(NamedTuple):
    """files: those of the package with a function that was called. frames: for each call of the
    U-Net the package's functions on the stack, from the sampler's to the U-Net's forward."""

    files: set[Path]
    frames: list[list[str]]


def traced(work: Callable[[], object]) -> Trace:
    found = Trace(set(), [])

    def note(frame: FrameType, event: str, _: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event != "call" or not file.is_relative_to(PACKAGE):
            return
        found.files.add(file)
        if frame.f_code is UNet.forward.__code__:
            found.frames.append(from_the_sampler(frame))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def from_the_sampler(frame: FrameType | None) -> list[str]:
    """The package's functions from the sampler's to this one."""
    names: list[str] = []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            names.insert(0, frame.f_code.co_name)
        if file == PACKAGE / "samplers.py":
            return names
        frame = frame.f_back
    raise AssertionError(f"no sampler calls {' -> '.join(names)}")


def one_step(sampler: str) -> Trace:
    """Of the storybook's model, between the second state and the third, with guidance."""
    sd = sdlearn.StableDiffusion.storybook(device="cpu")
    states = sd.trajectory(PROMPT, steps=4, sampler=sampler, guidance_scale=5.0)
    assert [next(states).step, next(states).step] == [0, 1]
    return traced(lambda: next(states))


@pytest.mark.parametrize(
    ("sampler", "function"), [("ddim", "ddim"), ("euler", "ddim"), ("dpm_pp_2m", "dpm_pp_2m")]
)
def test_one_step_can_be_read_at_one_sitting(sampler, function):
    trace = one_step(sampler)
    lines = {
        str(file.relative_to(PACKAGE)): len(file.read_text("utf-8").splitlines())
        for file in sorted(trace.files)
    }
    report = f"one step of {sampler} reads {sum(lines.values())} lines: {lines}"
    assert {"samplers.py", "guidance.py", "unet.py", "attention.py"} <= lines.keys(), report
    assert len(lines) <= MOST_FILES, report
    assert max(lines.values()) <= MOST_LINES, report
    (frames,) = trace.frames
    assert len(frames) <= MOST_FRAMES, " -> ".join(frames)
    assert frames == [function, "denoise", "guided", "forward"]


WRAPPER = """
def wrapping(unet, *_):
    def wrapper(*args):
        return unet(*args)
    return wrapper
"""


def test_a_wrapper_would_be_seen(monkeypatch):
    """A further function of the package between guidance and the U-Net, in a further file."""
    plain, made = one_step("ddim"), {}
    exec(compile(WRAPPER, PACKAGE / "wrapper.py", "exec"), made)
    monkeypatch.setattr(pipeline, "unet_with", made["wrapping"])
    wrapped = one_step("ddim")
    assert wrapped.files - plain.files == {PACKAGE / "wrapper.py"}
    assert wrapped.frames == [["ddim", "denoise", "guided", "wrapper", "forward"]]
    assert len(wrapped.frames[0]) > MOST_FRAMES >= len(plain.frames[0])
