"""Arguments that nobody should hand in: each is refused before any work, in one short sentence that
names it."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.cli import main as command
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import get_sampler
from sdlearn.schedule import NoiseSchedule
from sdlearn.text import Sizes
from sdlearn.unet import UNet
from sdlearn.utils import memory
from sdlearn.utils.sampling import SAMPLERS, Sampling
from sdlearn.vae import VAE
from tests.tiny_model import tiny_diffusers, tiny_sdxl

PROMPT = "a red cat on the sand"
LONG = "x" * 10_000_000
NAN, INF = float("nan"), float("inf")
BYTES = b"caf\xe9".decode("utf-8", "surrogateescape")  # how Python reads Latin-1 in argv
GREY = Image.new("RGB", (16, 16), "grey")
WHITE = Image.new("L", (16, 16), 255)
FREE = 4 * 2**30  # bytes of the computer that the tests pretend to have


class Awkward:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Verbose:
    """An object that shows itself in a million lines."""

    def __repr__(self) -> str:
        return "line\n" * 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_diffusers().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd(folder) -> StableDiffusion:
    return StableDiffusion.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def xl(tmp_path_factory) -> StableDiffusion:
    folder = tmp_path_factory.mktemp("xl")
    tiny_sdxl().save_pretrained(folder)
    return StableDiffusion.from_pretrained(folder, device="cpu")


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """No network is called, and the memory is that of a small computer."""

    def called(*_, **__):
        raise AssertionError("the work has begun")

    for network in (UNet, VAE):
        monkeypatch.setattr(network, "forward", called)
    monkeypatch.setattr(VAE, "encode", called)
    monkeypatch.setattr(VAE, "decode", called)
    monkeypatch.setattr(memory, "free_memory", lambda: FREE)


def refused(call, name: str) -> str:
    """What a call that must be refused says."""
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    assert name in said
    return said


# ------------------------------------------------------------------------ the fields of Sampling

NO_WHOLE_NUMBER = {
    "a float": 20.0, "a half": 2.5, "text": "20", "true": True, "numpy's true": np.bool_(True),
    "a tensor of one half": torch.tensor(0.5), "a tensor of several": torch.tensor([1, 2]),
    "a tensor without data": torch.empty((), dtype=torch.int64, device="meta"),
    "an array": np.array([20, 30]), "a list": [20], "nan": NAN, "a fraction": Fraction(20, 1),
    "a complex number": 1j, "no repr": Awkward(), "a long repr": Verbose(), "bytes": b"20",
    "long text": LONG, "a class": int,
}  # fmt: skip
NO_NUMBER = {
    "text": "7", "nan": NAN, "infinite": -INF, "complex": 1j, "numpy's complex": np.complex64(1),
    "numpy's nan": np.float32("nan"), "true": True, "a list": [7.0], "an array": np.array([7.0]),
    "a tensor of several": torch.ones(2), "a large integer": 10**400, "a decimal nan":
    Decimal("sNaN"), "no repr": Awkward(), "a long repr": Verbose(), "bytes": b"7",
}  # fmt: skip
OUT_OF_RANGE = {
    "steps": [0, -1, 1001, 10**9, -(10**400), 10**5000],
    "seed": [-1, -2, 2**63, 2**64, 10**400, 10**5000, -(2**63)],
    "n": [0, -3, 65_537, 10**9, 10**400],
    "height": [0, -8, 15, 16_385, 8_000_000, 10**30],
    "width": [0, -8, 15, 100_000, 10**5000],
    "eta": [-0.1, 1.1, 10**400],
    "guidance_rescale": [-0.1, 1.5],
    "clip_skip": [-1, 3, 10**400],
    "guidance_interval": [(3, 2), (1000, 2000), (-5, -1), (1,), 7, "ab", (NAN, 1), LONG],
    "sampler": ["magic", "", "DDIM", ["euler"], {"euler"}, 3, LONG, BYTES, Verbose()],
    "sigmas": ["lu", "", ["karras"], 3, LONG],
}
OPTIONS = [
    *(pytest.param({name: value}, name, id=f"{name}, {what}")
      for name in ("steps", "seed", "n", "height", "clip_skip")
      for what, value in NO_WHOLE_NUMBER.items()),
    *(pytest.param({name: value}, name, id=f"{name}, {what}")
      for name in ("guidance_scale", "eta", "guidance_rescale")
      for what, value in NO_NUMBER.items()),
    *(pytest.param({name: value}, name, id=f"{name}, {k}")
      for name, values in OUT_OF_RANGE.items() for k, value in enumerate(values)),
    pytest.param({"seed": None}, "seed", id="no seed"),
    pytest.param({"n": None}, "n is None", id="no n"),
    pytest.param({"seed": 2**63 - 2, "n": 3}, "seed", id="the last seed is too large"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "name"), OPTIONS)
def test_settings(sd, options, name):
    refused(lambda: sd.text_to_image(PROMPT, **{"progress": False} | options), name)


def test_numbers_of_other_kinds_are_taken_for_what_they_are():
    numbers = {"steps": np.int32(7), "seed": torch.tensor(5), "n": np.uint8(2)}
    numbers |= {"guidance_scale": Decimal("7.5"), "eta": Fraction(1, 2)}
    numbers |= {"guidance_rescale": np.float32(0.5), "clip_skip": None}
    made = Sampling(**numbers)
    found = {name: getattr(made, name) for name in numbers}
    assert found == {
        "steps": 7, "seed": 5, "n": 2, "guidance_scale": 7.5, "eta": 0.5, "guidance_rescale": 0.5,
        "clip_skip": 0,
    }  # fmt: skip
    assert {type(value) for value in found.values()} == {int, float}
    assert Sampling(seed=2**63 - 3, n=3).seed == 2**63 - 3


@pytest.mark.parametrize("text", ["", "x" * 10**6, "9" * 5000, "1 2 3", "nan", "1j", "\ud800"])
@pytest.mark.parametrize("name", ["steps", "eta", "guidance_interval", "seed", "n", "clip_skip"])
def test_texts_of_a_png(name, text):
    refused(lambda: Sampling.from_text({name: text}), name)


# --------------------------------------------------------------------------- the other arguments

NOISE = torch.zeros(1, 4, 8, 8)
OTHERS = {
    "no prompt": ({"prompt": None}, "prompt"),
    "bytes for a prompt": ({"prompt": b"cat"}, "prompt"),
    "a tuple of prompts": ({"prompt": ("a", "b")}, "prompt"),
    "an empty list": ({"prompt": []}, "prompt"),
    "a list of None": ({"prompt": ["a", None]}, "prompt"),
    "a prompt that is no UTF-8": ({"prompt": BYTES}, "not UTF-8"),
    "one of several is no UTF-8": ({"prompt": ["a", BYTES]}, "not UTF-8"),
    "a prompt of 10 MB": ({"prompt": LONG}, "prompt has 10000000 characters"),
    "a negative prompt of 10 MB": ({"negative_prompt": LONG}, "negative_prompt has 10000000"),
    "a negative prompt that is no UTF-8": ({"negative_prompt": BYTES}, "negative_prompt"),
    "a list with a bad one": ({"negative_prompt": [BYTES]}, "negative_prompt"),
    "a number for a negative prompt": ({"negative_prompt": 3}, "negative_prompt"),
    "no output": ({"output": None}, "output is None"),
    "a list of outputs": ({"output": ["image"]}, "output"),
    "an array for the output": ({"output": np.array(["image", "image"])}, "output"),
    "a long output": ({"output": LONG}, "output"),
    "progress in words": ({"progress": "no"}, "progress"),
    "progress as a number": ({"progress": 1}, "progress"),
    "an array of noise": ({"noise": np.zeros((1, 4, 8, 8))}, "noise"),
    "noise of another shape": ({"noise": torch.zeros(1, 4, 4, 8)}, "noise"),
    "noise of whole numbers": ({"noise": NOISE.long()}, "noise"),
    "complex noise": ({"noise": NOISE + 1j}, "noise"),
    "noise that is not finite": ({"noise": NOISE * NAN}, "noise"),
    "a function and a seed": ({"noise": lambda: NOISE, "seed": 3}, "seed is 3, but noise is a"),
    "a function that gives nothing": ({"noise": lambda: None}, "noise returns a NoneType"),
    "a dictionary of controls": ({"control": {}}, "control holds a dict"),
    "control without an image": ({"control": (1, 2, 3)}, "control holds a tuple"),
    "a scale without a control": ({"control_scale": 0.5}, "control_scale is 0.5"),
    "scales without controls": ({"control_scale": [0.5]}, "control_scale has 1 entries"),
    "sizes that are not used": ({"sizes": Sizes()}, "sizes are for SDXL"),
    "an option with a long name": ({"z" * 10_000: 1}, "there is no option 'zzz"),
    "eta where there is none": ({"eta": 0.5, "sampler": "lms"}, "eta is 0.5"),
    "karras where there is none": ({"sigmas": "karras", "sampler": "ddim"}, "sigmas"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "name"), OTHERS.values(), ids=OTHERS)
def test_other_arguments(sd, options, name):
    refused(lambda: sd.text_to_image(**{"prompt": PROMPT, "progress": False} | options), name)


SIZES = {
    "a tuple": (16, 16), "text": "16", "half a pixel": Sizes((16.5, 16)),
    "negative": Sizes(crop=(-1, 0)), "no crop": Sizes(crop=None), "one side": Sizes(target=(16,)),
    "enormous": Sizes((2**70, 16)), "true": Sizes((True, 16)),
}  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_sizes_of_sdxl(xl, sizes):
    refused(lambda: xl.text_to_image(PROMPT, sizes=sizes, progress=False), "sizes")


IMAGES = {
    "no image": (lambda sd: sd.image_to_image(PROMPT, None), "image is None"),
    "no image to inpaint": (lambda sd: sd.inpaint(PROMPT, None, WHITE), "image is None"),
    "no mask": (lambda sd: sd.inpaint(PROMPT, GREY, None), "mask is None"),
    "a path": (lambda sd: sd.image_to_image(PROMPT, Path("cat.png")), "image"),
    "an array": (lambda sd: sd.image_to_image(PROMPT, np.zeros((16, 16, 3))), "image"),
    "no images": (lambda sd: sd.image_to_image(PROMPT, []), "image"),
    "strength in words": (lambda sd: sd.image_to_image(PROMPT, GREY, strength="0.5"), "strength"),
    "strength nan": (lambda sd: sd.image_to_image(PROMPT, GREY, strength=NAN), "strength"),
    "strength 2": (lambda sd: sd.inpaint(PROMPT, GREY, WHITE, strength=2), "strength is 2"),
    "no strength": (lambda sd: sd.inpaint(PROMPT, GREY, WHITE, strength=None), "strength"),
    "strength of no image": (lambda sd: sd.trajectory(PROMPT, strength=0.5), "strength is 0.5"),
    "a mask of no image": (lambda sd: sd.trajectory(PROMPT, mask=WHITE), "mask"),
    "an image made large": (
        lambda sd: sd.image_to_image(PROMPT, GREY, height=16_384, width=16_384), "height 16384"
    ),
    "painted in large": (
        lambda sd: sd.inpaint(PROMPT, GREY, WHITE, height=16_384, width=16_384), "height 16384"
    ),
    "too many from one image": (lambda sd: sd.image_to_image(PROMPT, GREY, n=60_000), "60000"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "name"), IMAGES.values(), ids=IMAGES)
def test_images_and_what_goes_with_them(sd, call, name):
    refused(lambda: call(sd), name)


load, loaded = StableDiffusion.from_pretrained, "data/storybook"
LOADING = {
    "none": (lambda: load(None), "source is None"),
    "a number": (lambda: load(123), "source is 123"),
    "bytes": (lambda: load(b"data"), "source"),
    "nothing": (lambda: load(""), "source is ''"),
    "5000 letters": (lambda: load("x" * 5000), "source"),
    "blanks": (lambda: load("  "), "source"),
    "nul": (lambda: load("data\0"), "source"),
    "a list": (lambda: load(["data"]), "source"),
    "a tensor": (lambda: load(torch.zeros(100, 100)), "source"),
    "fp16": (lambda: load(loaded, dtype="fp16"), "dtype is 'fp16'"),
    "float16 as text": (lambda: load(loaded, dtype="float16"), "dtype"),
    "numpy's dtype": (lambda: load(loaded, dtype=np.float32), "dtype"),
    "whole numbers": (lambda: load(loaded, dtype=torch.int8), "dtype"),
    "8 bits": (lambda: load(loaded, dtype=torch.float8_e4m3fn), "dtype"),
    "half of the storybook": (lambda: StableDiffusion.storybook(dtype="half"), "dtype"),
    "device 3": (lambda: load(loaded, device=3), "device is 3"),
    "a device that is not there": (lambda: load(loaded, device="cuda:99"), "device"),
    "no such device": (lambda: load(loaded, device="tpu"), "device is 'tpu'"),
    "the meta device": (lambda: load(loaded, device=torch.device("meta")), "device is 'meta'"),
    "a long device": (lambda: load(loaded, device="x" * 10_000), "device"),
    "a tokenizer that is a number": (lambda: load(loaded, tokenizer=5), "tokenizer is 5"),
    "saving nowhere": (lambda: StableDiffusion(1, 2, 3, 4).save_pretrained(None), "folder"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "name"), LOADING.values(), ids=LOADING)
def test_loading(call, name, monkeypatch):
    monkeypatch.setattr("sdlearn.weights.single_file.read_folder", lambda *_: 1 / 0)
    refused(call, name)


@pytest.mark.parametrize("name", ["unet", "vae", "text", "spec"])
def test_a_part_that_is_none(sd, name):
    parts = {
        key: None if key == name else getattr(sd, key) for key in ("unet", "vae", "text", "spec")
    }
    refused(lambda: StableDiffusion(**parts).text_to_image(PROMPT), f"{name} of this")


DIRECTLY = {
    "latents that are none": (lambda sd: sd.to_images(None), "the latents are a NoneType"),
    "latents of three axes": (lambda sd: sd.to_images(NOISE[0]), "shape (4, 8, 8)"),
    "latents of three channels": (lambda sd: sd.to_images(NOISE[:, :3]), "(b, 4, h, w)"),
    "whole latents": (lambda sd: sd.to_images(NOISE.long()), "torch.int64"),
    "no latents": (lambda sd: sd.to_images(NOISE[:0]), "shape (0, 4, 8, 8)"),
    "one text": (lambda sd: sd.text("cat"), "prompts is 'cat'"),
    "texts of None": (lambda sd: sd.text([None]), "prompts is [None]"),
    "resolving nothing": (lambda sd: sd.resolve(None), "sampling is None"),
    "a path of many steps": (lambda sd: sd.path(10**9), "steps is 1000000000"),
    "a path of no sampler": (lambda sd: sd.path(sampler=["ddim"]), "sampler"),
    "a path's spacing": (lambda sd: sd.path(spacing=LONG), "spacing"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "name"), DIRECTLY.values(), ids=DIRECTLY)
def test_other_methods(sd, call, name):
    refused(lambda: call(sd), name)


SCHEDULES = {
    "no steps": {"num_steps": 0}, "negative": {"num_steps": -5}, "a billion": {"num_steps": 10**9},
    "a float": {"num_steps": 1000.0}, "text": {"num_steps": "1000"}, "beta": {"beta_start": 0},
    "beta below 0": {"beta_start": -0.1}, "beta above 1": {"beta_end": 1.5},
    "beta nan": {"beta_end": NAN}, "beta as text": {"beta_end": "0.1"}, "kind": {"kind": LONG},
    "a list of kinds": {"kind": ["linear"]},
}  # fmt: skip


@pytest.mark.parametrize("options", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules(options):
    refused(lambda: NoiseSchedule(**options), *options)


@pytest.mark.parametrize("name", [None, 3, ["ddim"], {}, LONG])
def test_samplers_by_name(name):
    refused(lambda: get_sampler(name), "sampler")


def test_the_names_of_the_samplers_are_those_of_the_chapter():
    from sdlearn import samplers

    assert tuple(samplers.SAMPLERS) == SAMPLERS


# ------------------------------------------------------------------------------ the command line

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
    "interval beyond": (["--guidance-interval", "2000", "3000"], "guidance_interval"),
    "clip skip -1": (["--clip-skip", "-1"], "--clip-skip is -1"),
    "clip skip 9": (["--clip-skip", "9"], "clip_skip is 9; it must lie in 0 … 2"),
    "negative of bytes": (["--negative", BYTES], "--negative"),
    "negative of 10 MB": (["--negative", LONG], "--negative has 10000000"),
    "out is a jpeg": (["--out", "cat.jpg"], "--out"),
    "out is empty": (["--out", ""], "--out"),
    "out is a dot": (["--out", ".png"], "--out"),
    "out is nowhere": (["--out", "no/where/cat.png"], "--out"),
    "out is a folder": (["--out", "folder.png"], "folder"),
    "the second is a folder": (["--out", "x.png", "--n", "2"], "x-1.png, which is a folder"),
    "out has 300 letters": (["--out", "x" * 300 + ".png"], "--out"),
    "out has 252 letters": (["--out", "x" * 248 + ".png"], "--out"),
    "no model": (["--model", ""], "--model is ''"),
    "a model of 5000 letters": (["--model", "x" * 5000], "xxx"),
    "a model of bytes": (["--model", BYTES], "caf"),
    "spec alone": (["--spec", "sd1.5"], "spec"),
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
def test_generate(options, words, folder, tmp_path, monkeypatch, capsys):
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
    notebook = tmp_path / "05-x.ipynb"
    notebook.write_text(content)
    assert run(["classroom", "release", str(notebook), "--out", str(tmp_path / "new")]) == 2
    one_sentence(capsys.readouterr().err, "is not a notebook")
    assert [path.name for path in tmp_path.iterdir()] == ["05-x.ipynb"]


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
