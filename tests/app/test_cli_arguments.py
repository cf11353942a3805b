"""Options of the commands: bad paths and numbers, and messages that name what was typed."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sdlearn.cli import arguments
from sdlearn.cli import main as command
from sdlearn.cli.main import main
from tests.tiny_runs import CLIP, UNET, VAE, refused

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = str(ROOT / "notebooks" / "04-attention.ipynb")
GENERATE = ["generate", "a red cat"]
# Commands whose last option takes the place.
OPTIONS = {
    "generate --out": [*GENERATE, "--out"],
    "generate --model": [*GENERATE, "--model"],
    "train --out": [*VAE, "--out"],
    "train --init": [*VAE, "--out", "run", "--init"],
    "train --data": [*VAE, "--out", "run", "--data"],
    "train --vae": [*UNET, "--out", "run", "--vae"],
    "train --text": [*UNET, "--out", "run", "--text"],
    "evaluate --out": ["evaluate", "--out"],
    "evaluate --model": ["evaluate", "--model"],
    "evaluate --runs": ["evaluate", "--card", "--runs"],
    "classroom NOTEBOOK": ["classroom", "release", "--out", "new"],
    "classroom --out": ["classroom", "release", NOTEBOOK, "--out"],
}
PLACES = {
    "a name of 300 letters": ("x" * 300, "File name too long"),
    "a path of 6000 letters": ("y/" * 3000, ""),
    "below a file": ("letter/x/y", "letter"),
    "below a file, as a hub's id": ("letter/y", "letter"),
    "nothing": ("", ""),
    "blanks": ("  ", ""),
    "the home of nobody": ("~nouser/x", "no user 'nouser'"),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("place", PLACES)
def test_a_bad_place_is_one_sentence(option, place, tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    if option.startswith("classroom"):
        pytest.importorskip("nbgrader")
    (tmp_path / "letter").write_text("dear")
    monkeypatch.chdir(tmp_path)
    bad, words = PLACES[place]
    line = refused([*OPTIONS[option], bad], capsys)
    assert words in line or "must end in" in line
    assert "Errno" not in line
    assert "invalid" not in line
    for name in ("user_path", "home_path", "<function", "expanduser"):
        assert name not in line
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no file")
@pytest.mark.parametrize(
    ("args", "out"),
    [
        (GENERATE, "/proc/cat.png"),
        (["evaluate"], "/proc/all.json"),
        (VAE, "/proc/run"),
        (["classroom", "release", NOTEBOOK], "/proc/new"),
    ],
    ids=["generate", "evaluate", "train", "classroom"],
)
def test_a_folder_that_takes_no_file_is_named(args, out, capsys) -> None:  # type: ignore[no-untyped-def]
    if args[0] == "classroom":
        pytest.importorskip("nbgrader")
    line = refused([*args, "--out", out], capsys)
    assert "written to" in line
    assert "/proc" in line
    assert "Errno" not in line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "the output cannot be written: No space left"),
        (OSError(5, "Input/output error"), "a file cannot be read or written: Input/output error"),
        (PermissionError(13, "Permission denied", "x.json"), "'x.json' cannot be read or written"),
        (NotADirectoryError("x is a file"), "x is a file"),
    ],
    ids=["full disk", "broken disk", "permission", "a sentence"],
)
def test_an_error_of_the_system_has_no_number(error, said, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("sdlearn.cli.generate.main", fail)
    line = refused(["generate", "x"], capsys)
    assert line.startswith(f"sdlearn: {said}")
    assert "Errno" not in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([*GENERATE, "--steps", "2.5"], "argument --steps: '2.5' is not a whole number"),
        ([*GENERATE, "--n", "9" * 5000], "is not a whole number"),
        ([*GENERATE, "--guidance", "strong"], "argument --guidance: 'strong' is not a number"),
        ([*VAE, "--out", "run", "--lr", "x"], "argument --lr: 'x' is not a number"),
        (["evaluate", "--table", "x"], "argument --table: 'x' is not a whole number"),
        (["playground", "--port", "x"], "argument --port: 'x' is not a whole number"),
    ],
    ids=lambda value: value[-2] if isinstance(value, list) else "",
)
def test_a_number_is_refused_in_words(args, said, capsys) -> None:  # type: ignore[no-untyped-def]
    line = refused(args, capsys)
    assert said in line
    assert "invalid" not in line


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_type_of_an_option_explains_itself(name: str) -> None:
    """argparse prints the name of any other function."""
    known = {arguments.whole, arguments.number, arguments.path, arguments.home_path, str, None}
    known.add(arguments.scaled_file)
    parsers = [command.Parser()]
    command.import_module(command.COMMANDS[name][1]).add_arguments(parsers[0])
    for parser in parsers:
        for action in parser._actions:
            parsers += list(action.choices.values()) if isinstance(action.choices, dict) else []
            assert action.type in known, action.dest


TYPED = {
    "size": ([*GENERATE, "--size", "15"], "--size is 15; it must be a positive multiple of 8"),
    "height": ([*GENERATE, "--height", "15"], "--height is 15; it must be"),
    "width": ([*GENERATE, "--width", "15"], "--width is 15; it must be"),
    "steps": ([*GENERATE, "--steps", "2000"], "--steps is 2000; it must lie in 1 … 1000"),
    "interval": ([*GENERATE, "--guidance-interval", "2000", "3000"], "--guidance-interval is ("),
    "clip skip": ([*GENERATE, "--clip-skip", "50"], "--clip-skip is 50; it must lie in 0 … 4"),
    "eta": ([*GENERATE, "--sampler", "euler", "--eta", "1"], "--eta is 1.0; the sampler euler"),
    "sigmas": ([*GENERATE, "--sampler", "ddim", "--sigmas", "karras"], "--sigmas is 'karras'"),
    "seed": ([*GENERATE, "--seed", str(2**63 - 1), "--n", "2"], "; with --n = 2 it must lie in"),
    "seed below -1": ([*GENERATE, "--seed", "-2"], "2^63 - 1, or be -1 for a random one"),
    "evaluate": (["evaluate", "--n", "1", "--steps", "5000"], "--steps is 5000; it must lie in"),
    "batch": ([*VAE, "--out", "run", "--batch", "0"], "--batch is 0; accepted"),
    "batch of clip": ([*CLIP, "--out", "run", "--batch", "3"], "--batch is 3; accepted: mult"),
    "lr": ([*VAE, "--out", "run", "--lr", "nan"], "--lr is nan; accepted"),
    "init": ([*VAE, "--out", "run", "--init", "no"], "--init is no, which does not exist"),
    "device": ([*VAE, "--out", "run", "--device", "x"], "--device is 'x', which is not available"),
    "set": ([*VAE, "--out", "run", "--set", "batch=0"], "sdlearn: batch is 0; accepted"),
}


@pytest.mark.parametrize(("args", "said"), TYPED.values(), ids=TYPED)
def test_a_message_names_what_was_typed(args, said, tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    """Also where the check is one of the pipeline or of a recipe, which know only their fields."""
    monkeypatch.chdir(tmp_path)
    assert said in refused(args, capsys)
    assert not list(tmp_path.iterdir())


def test_the_version_is_that_of_the_package_and_needs_no_torch() -> None:
    code = "import sys; from sdlearn.cli.main import main\n"
    code += "try: main(['--version'])\nfinally: print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout.decode().split("\n")[:2] == [f"sdlearn {version('sdlearn')}", "False"]
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
