"""Small trainings: their commands, and the sentence of one that is refused."""

import os

import pytest

from sdlearn.cli.main import main

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and locks")
TINY = ["train", "perceptual", "--recipe", "small", "--device", "cpu", "--steps", "3"]
TINY += ["--batch", "2", "--scenes", "6", "--set", "widths=(4,8)", "--set", "size=32"]
TINY += ["--checkpoint-steps", "1"]  # the last two are kept
_SMALL = ["--recipe", "small", "--device", "cpu", "--steps", "1", "--scenes", "4"]
UNET = ["train", "unet", *_SMALL, "--batch", "2"]
UNET += ["--set", "block_out_channels=(32,32)", "--set", "num_heads=(2,2)"]
VAE = ["train", "vae", *_SMALL]
CLIP = ["train", "clip", *_SMALL]
JUDGE = ["train", "judge", *_SMALL]


def said(args: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a refused command."""
    capsys.readouterr()
    try:
        code: object = main(args)
    except SystemExit as stop:  # of argparse
        code = stop.code
    assert code == 2
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("sdlearn: ")]


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a refused command."""
    (line,) = said(args, capsys)
    assert len(line) < 700
    return line


def sentence(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a refused command, which may have warned before."""
    line = said(args, capsys)[-1]
    assert len(line) < 500
    return line
