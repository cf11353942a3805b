"""What the commands are given on the command line: refused before any work, in one short line."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdlearn.cli import main as command
from sdlearn.unet import UNet
from sdlearn.utils import memory
from sdlearn.vae import VAE
from tests.tiny_model import tiny_diffusers

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a red cat on the sand"
LONG = "x" * 10_000_000
BYTES = b"caf\xe9".decode("utf-8", "surrogateescape")  # how Python reads Latin-1 in argv
FREE = 4 * 2**30  # bytes of the computer that the tests pretend to have


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_diffusers().save_pretrained(folder)
    return folder


@pytest.fixture
def no_work(monkeypatch):
    """No network is called, and the memory is that of a small computer."""

    def called(*_, **__):
        raise AssertionError("the work has begun")

    for network in (UNet, VAE):
        monkeypatch.setattr(network, "forward", called)
    monkeypatch.setattr(VAE, "decode", called)
    monkeypatch.setattr(memory, "free_memory", lambda: FREE)


COMMANDS = {
    "steps 0": (["--steps", "0"], "--steps is 0"),
    "steps -1": (["--steps", "-1"], "--steps is -1"),
    "a billion steps": (["--steps", str(10**9)], "steps is 1000000000"),
    "steps of 5000 digits": (["--steps", "9" * 5000], "--steps"),
    "steps of 400 digits": (["--steps", "9" * 400], "steps"),
    "half a step": (["--steps", "2.5"], "--steps"),
    "seed -2": (["--seed", "-2"], "--seed is -2"),
    "seed 2^63": (["--seed", str(2**63)], "--seed"),
    "the last seeds": (["--seed", str(2**63 - 1), "--n", "2"], "seed"),
    "no images": (["--n", "0"], "--n is 0"),
    "a million images": (["--n", "1000000"], "--n is 1000000"),
    "more than memory holds": (["--n", "60000"], "60000 images"),
    "size 0": (["--size", "0"], "--size is 0"),
    "size 15": (["--size", "15"], "15"),
    "size 100000": (["--size", "100000"], "--size is 100000"),
    "a size for no computer": (["--size", "16384"], "height 16384"),
    "a long strip": (["--height", "8", "--width", "8000000"], "--width is 8000000"),
    "size and width": (["--size", "16", "--width", "16"], "--size"),
    "guidance nan": (["--guidance", "nan"], "--guidance is nan"),
    "guidance inf": (["--guidance", "-inf"], "--guidance"),
    "guidance in words": (["--guidance", "strong"], "--guidance"),
    "an unknown sampler": (["--sampler", "magic"], "--sampler 'magic' is not known"),
    "a long sampler": (["--sampler", "x" * 100_000], "--sampler"),
    "a sampler of bytes": (["--sampler", BYTES], "--sampler"),
    "eta of euler": (["--sampler", "euler", "--eta", "1"], "eta is 1.0"),
    "karras of ddim": (["--sampler", "ddim", "--sigmas", "karras"], "sigmas"),
    "uniform of euler": (["--sampler", "euler", "--sigmas", "uniform_lambda"], "sigmas"),
    "rescale 2": (["--guidance-rescale", "2"], "--guidance-rescale is 2.0"),
    "interval backwards": (["--guidance-interval", "9", "3"], "--guidance-interval"),
    "interval of one": (["--guidance-interval", "9"], "--guidance-interval"),
    "interval beyond": (["--guidance-interval", "2000", "3000"], "--guidance-interval is"),
    "clip skip -1": (["--clip-skip", "-1"], "--clip-skip is -1"),
    "clip skip 9": (["--clip-skip", "9"], "--clip-skip is 9; it must lie in 0 … 2"),
    "negative of bytes": (["--negative", BYTES], "--negative"),
    "negative of 10 MB": (["--negative", LONG], "--negative has 10000000"),
    "out is a jpeg": (["--out", "cat.jpg"], "--out"),
    "out is empty": (["--out", ""], "--out"),
    "out is a dot": (["--out", ".png"], "--out"),
    "out is nowhere": (["--out", "no/where/cat.png"], "--out"),
    "out is a folder": (["--out", "folder.png"], "folder"),
    "the second is a folder": (["--out", "x.png", "--n", "2"], "x-1.png, which is a folder"),
    "out has 300 letters": (["--out", "x" * 300 + ".png"], "File name too long"),
    "out has 252 letters": (["--out", "x" * 248 + ".png"], "--out"),
    "no model": (["--model", ""], "--model is ''"),
    "a model of 5000 letters": (["--model", "x" * 5000], "xxx"),
    "a model of bytes": (["--model", BYTES], "caf"),
    "spec alone": (["--spec", "sd1.5"], "spec"),
    "guidance of a million million": (["--guidance", "1e12"], "--guidance is 1000000000000.0"),
    "an unknown option": (["--colour", "x" * 1000], "--colour"),
}  # fmt: skip


def run(argv: list[str]) -> int:
    """The exit code, which argparse raises."""
    try:
        return command.main(argv)
    except SystemExit as stop:
        return stop.code


def one_sentence(err: str, words: str) -> None:
    assert err.startswith("sdlearn: ")
    assert err.count("\n") == 1
    assert len(err) < 600
    assert words in err


@pytest.mark.parametrize(("options", "words"), COMMANDS.values(), ids=COMMANDS)
def test_generate(options, words, folder, tmp_path, monkeypatch, capsys, no_work):
    """Without reading a weight, where a folder says enough."""
    monkeypatch.chdir(tmp_path)
    if "--model" not in options:
        options = ["--model", str(folder), *options]
        if "--spec" not in options:
            monkeypatch.setattr("sdlearn.weights.diffusers_folder.load", lambda *_: 1 / 0)
    for name in ("folder.png", "x-1.png"):
        (tmp_path / name).mkdir()
    assert run(["generate", PROMPT, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    one_sentence(err, words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "x-1.png"]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [(BYTES, "not UTF-8"), (LONG, "the prompt has 10000000 characters")],
    ids=["bytes", "10 MB"],
)
def test_prompts_of_generate(prompt, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["generate", prompt]) == 2
    one_sentence(capsys.readouterr().err, words)


EVALUATIONS = {
    "n": (["--n", "0"], "--n is 0"),
    "a billion captions": (["--n", str(10**9)], "--n is 1000000000"),
    "a billion seeds": (["--seeds", str(10**9)], "--seeds is 1000000000"),
    "a million times two": (["--n", "1000000", "--seeds", "2"], "their product"),
    "guidance": (["--guidance", "nan"], "--guidance is nan"),
    "steps": (["--steps", "0"], "--steps is 0"),
    "many steps": (["--steps", str(10**9)], "steps is 1000000000"),
    "sampler": (["--sampler", "magic"], "--sampler 'magic'"),
    "table": (["--table", "-1"], "--table is -1"),
    "runs": (["--runs", "no/where"], "no/where is not a run of `sdlearn train`: it has no recipe"),
    "out": (["--out", "no/where.json"], "--out"),
    "model": (["--model", ""], "--model"),
}


@pytest.mark.parametrize(("options", "words"), EVALUATIONS.values(), ids=EVALUATIONS)
def test_evaluate(options, words, capsys):
    assert run(["evaluate", *options]) == 2
    one_sentence(capsys.readouterr().err, words)


NOTEBOOKS = {
    "a list": "[]", "a number": "5", "cells of numbers": '{"cells": [5], "metadata": {}}',
    "no cells": '{"cells": 5, "metadata": {}}', "no metadata": '{"cells": []}',
    "metadata of text": '{"cells": [], "metadata": "x"}', "no JSON": "{", "nothing": "",
    "nested": "[" * 100_000, "other cells": '{"cells": [{"cell_type": "x"}], "metadata": {}}',
}  # fmt: skip


@pytest.mark.parametrize("content", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_classroom(content, tmp_path, capsys):
    pytest.importorskip("nbgrader")
    notebook = tmp_path / "04-x.ipynb"
    notebook.write_text(content)
    assert run(["classroom", "release", str(notebook), "--out", str(tmp_path / "new")]) == 2
    one_sentence(capsys.readouterr().err, "is not a notebook")
    assert [path.name for path in tmp_path.iterdir()] == ["04-x.ipynb"]


@pytest.mark.parametrize("option", ["--spec", "--tokenizer"])
def test_an_empty_option_of_generate_is_not_taken_for_none(option, capsys, no_work):
    assert run(["generate", PROMPT, option, ""]) == 2
    one_sentence(capsys.readouterr().err, "--spec and --tokenizer describe a model file")


PLACES = {
    "a folder": ("notebooks", "new", "notebooks is a folder; accepted"),
    "nothing": ("", "new", "argument NOTEBOOK"),
    "out in a file": ("notebooks/04-attention.ipynb", "README.md/x", "README.md, which is a file"),
}


@pytest.mark.parametrize(("notebook", "out", "words"), PLACES.values(), ids=PLACES)
def test_places_of_classroom(notebook, out, words, capsys, monkeypatch):
    pytest.importorskip("nbgrader")
    monkeypatch.chdir(ROOT)
    assert run(["classroom", "release", notebook, "--out", out]) == 2
    one_sentence(capsys.readouterr().err, words)


@pytest.mark.parametrize("option", ["--data", "--init", "--vae", "--text"])
def test_an_empty_option_of_train_is_not_taken_for_none(option, tmp_path, capsys):
    """A variable of the shell that is not set."""
    assert run(["train", "unet", "--out", str(tmp_path / "run"), option, ""]) == 2
    one_sentence(capsys.readouterr().err, f"{option} is empty")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "others"),
    [("generate", [PROMPT]), ("train", ["vae"]), ("evaluate", []), ("classroom", ["release", "x"])],
)
def test_a_tilde_is_the_home_folder(name, others, monkeypatch, tmp_path):
    """The shell leaves --out=~/x as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert str(command.parse([name, *others, "--out=~/x"]).out) == str(tmp_path / "x")


FAULTS = {
    "memory": (MemoryError(), "not enough memory"),
    "torch's allocator": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate "
                     "memory: you tried to allocate 4000000 bytes.\nError code 12"),
        "not enough memory",
    ),
    "a GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."), "not en"),
    "an Apple GPU": (RuntimeError("Invalid buffer size: 16.00 GB"), "not enough memory"),
    "nesting": (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    "a package": (ModuleNotFoundError("No module named 'voila'"), "No module named 'voila'"),
    "a long message": (ValueError("x" * 10_000), "xxx … xxx"),
    "several lines": (ValueError("one\n\n  two\r\nthree"), "one two three"),
    "an escape": (ValueError("\x1b[31mred\x07"), r"\x1b[31mred\x07"),
    "lone surrogates": (ValueError(BYTES), r"caf\udce9"),
    "no words": (ValueError(), "ValueError"),
}  # fmt: skip


@pytest.mark.parametrize(("error", "words"), FAULTS.values(), ids=FAULTS)
def test_errors_while_running(error, words, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("sdlearn.cli.generate.main", fail)
    assert run(["generate", "x"]) == 2
    one_sentence(capsys.readouterr().err, words)


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    def fail(_):
        raise RuntimeError("a shape does not fit")

    monkeypatch.setattr("sdlearn.cli.generate.main", fail)
    with pytest.raises(RuntimeError, match="a shape does not fit"):
        run(["generate", "x"])


# ------------------------------------------------------------------------------- real processes


def started(*argv: bytes | str) -> subprocess.CompletedProcess[bytes]:
    """`sdlearn ...` in a process of its own."""
    process = [sys.executable, "-m", "sdlearn", *argv]
    return subprocess.run(process, capture_output=True)


@pytest.mark.skipif(os.name == "nt", reason="arguments are Unicode there")
def test_bytes_that_are_no_utf8():
    done = started("generate", b"caf\xe9")
    assert done.returncode == 2
    said = r"sdlearn: the prompt is 'caf\udce9', which is not UTF-8; it must be Unicode text"
    assert done.stderr.decode() == said + "\n"


@pytest.mark.parametrize(
    "options",
    [["--seed", "-2"], ["--size", "100000"], ["--sampler", "magic"], ["--n", "1000000"],
     ["--steps", "0"], ["--negative", BYTES], ["--out", "cat.jpg"], ["--spec", "sd1.5"]],
    ids=lambda options: options[0],
)  # fmt: skip
def test_what_needs_no_model_is_said_before_torch_is_imported(options):
    """torch takes seconds."""
    code = "import sys; from sdlearn.cli.main import main; code = main(sys.argv[1:]); "
    code += "sys.exit(100 if 'torch' in sys.modules else code)"
    done = subprocess.run([sys.executable, "-c", code, "generate", PROMPT, *options])
    assert done.returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe of POSIX")
def test_a_pipe_whose_reader_has_ended(folder, tmp_path):
    """All images are made, and there is no traceback."""
    command = [sys.executable, "-m", "sdlearn", "generate", PROMPT, "--model", str(folder)]
    command += ["--steps", "1", "--n", "3", "--out", str(tmp_path / "cat.png")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 141
    assert b"Error" not in done.stderr
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.name == "nt", reason="needs file names of bytes")
def test_a_name_that_the_locale_cannot_print(folder, tmp_path, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    out = tmp_path / "ü.png"
    options = ["--model", str(folder), "--steps", "1", "--out", str(out)]
    assert command.main(["generate", PROMPT, *options]) == 0
    assert stdout.buffer.getvalue() == str(out).encode("ascii", "backslashreplace") + b"\n"
    assert out.is_file()
