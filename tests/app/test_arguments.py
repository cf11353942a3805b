"""Arguments that nobody should hand in: each is refused before any work, in one short sentence that
names it."""

import warnings
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.clip import CLIPTextConfig
from sdlearn.controlnet import ControlNet
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import get_sampler
from sdlearn.schedule import NoiseSchedule
from sdlearn.storybook import read_folder
from sdlearn.text import Sizes
from sdlearn.unet import UNet
from sdlearn.utils import memory
from sdlearn.utils.png_metadata import GenerationSettings, png_bytes, read_png
from sdlearn.utils.prepack import prepack
from sdlearn.utils.sampling import SAMPLERS, Sampling
from sdlearn.vae import VAE
from sdlearn.weights.saving import save
from sdlearn.weights.state_dict import load as load_weights
from sdlearn.weights.weight_names import choose_variants
from tests.tiny_model import tiny_diffusers, tiny_sdxl

PROMPT = "a red cat on the sand"
LONG = "x" * 10_000_000
NAN, INF = float("nan"), float("inf")
BYTES = b"caf\xe9".decode("utf-8", "surrogateescape")  # how Python reads Latin-1 in argv
GREY = Image.new("RGB", (16, 16), "grey")
WHITE = Image.new("L", (16, 16), 255)
EMPTY = torch.empty(1, 3, 16, 16, device="meta")
SPARSE = torch.zeros(1, 3, 16, 16).to_sparse()
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
    assert len(said) <= 300
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
    *(pytest.param({"guidance_scale": value}, "-1000000 … 1000000", id=f"guidance of {value:g}")
      for value in (1e308, -1e39, 1e30, 1_000_001)),
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
    "noise without values": ({"noise": NOISE.to("meta")}, "noise is tensor(..., device"),
    "sparse noise": ({"noise": NOISE.to_sparse()}, "noise is tensor(indices"),
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
    "an image without values": (lambda sd: sd.image_to_image(PROMPT, EMPTY), "image is tensor("),
    "a sparse image": (lambda sd: sd.image_to_image(PROMPT, SPARSE), "image is tensor("),
    "a mask without values": (
        lambda sd: sd.inpaint(PROMPT, GREY, EMPTY[:, :1]), "mask is tensor("
    ),
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
    "images of many sizes": (
        lambda sd: sd.image_to_image(
            [PROMPT] * 99, [Image.new("RGB", (16 + k, 16)) for k in range(99)]
        ),
        "images of several sizes, [(16, 16), (17, 16)",
    ),
    "a hint for another autoencoder": (
        lambda sd: sd.text_to_image(PROMPT, control=(ControlNet.from_unet(sd.unet), GREY)),
        "the ControlNet reads 8 x 8 pixels",
    ),
    "too many from one image": (lambda sd: sd.image_to_image(PROMPT, GREY, n=60_000), "60000"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "name"), IMAGES.values(), ids=IMAGES)
def test_images_and_what_goes_with_them(sd, call, name):
    refused(lambda: call(sd), name)


@pytest.mark.parametrize("several", [False, True])
def test_a_photo_too_large_to_draw_is_refused_before_it_is_converted(sd, monkeypatch, several):
    monkeypatch.setattr("sdlearn.utils.pipeline_inputs.prepare_image", lambda *_: 1 / 0)
    photo = Image.new("1", (8, 8))
    photo._size = (16_384, 16_380)  # as large a file, of which no pixel is read yet
    image = [photo] if several else photo
    refused(lambda: sd.image_to_image(PROMPT, image), "height 16380 and width 16384")
    refused(lambda: sd.inpaint(PROMPT, image, WHITE), "height 16380 and width 16384")
    with pytest.raises(ZeroDivisionError):  # where it is made smaller
        sd.image_to_image(PROMPT, image, height=16, width=16)


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
    "a variant of 5000 digits": (lambda: choose_variants({}, 10**5000, ""), "variant is <int"),
    "a variant that cannot be shown": (lambda: choose_variants({}, Awkward(), ""), "variant is"),
    "a ControlNet of none": (lambda: ControlNet.from_pretrained(None), "source is None"),
    "a ControlNet of an image": (lambda: ControlNet.from_pretrained(GREY), "source is <PIL"),
    "a ControlNet of no type": (
        lambda: ControlNet.from_pretrained("x", dtype=Awkward()), "dtype is <Awkward"
    ),
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
    "latents without values": (lambda sd: sd.to_images(NOISE.to("meta")), "latents are tensor("),
    "sparse latents": (lambda sd: sd.to_images(NOISE.to_sparse()), "the latents are tensor("),
    "one text": (lambda sd: sd.text("cat"), "prompts is 'cat'"),
    "no texts": (lambda sd: sd.text([]), "prompts is []"),
    "texts that are none": (lambda sd: sd.text(None), "prompts is None"),
    "texts in an array": (lambda sd: sd.text(np.zeros((9, 9))), "prompts is array("),
    "texts in a dictionary": (lambda sd: sd.text({"cat": 1}), "prompts is {'cat': 1}"),
    "CLIP skip none": (lambda sd: sd.text(["cat"], None), "clip_skip is None"),
    "CLIP skip a tensor": (lambda sd: sd.text(["cat"], torch.zeros(2)), "clip_skip is tensor("),
    "a ControlNet of everything": (lambda sd: ControlNet.from_unet(sd), "unet is a StableDiff"),
    "a ControlNet of no U-Net": (lambda sd: ControlNet.from_unet(None), "unet is a NoneType"),
    "settings of a list": (lambda _: Sampling.from_options([1]), "options is [1]"),
    "settings of a text": (lambda _: Sampling.from_options("steps"), "options is 'steps'"),
    "texts of None in a PNG": (lambda _: Sampling.from_text(None), "texts is None"),
    "a time in words": (lambda sd: sd.schedule.at("noon"), "t is a str"),
    "no time": (lambda sd: sd.schedule.snr(None), "t is a NoneType"),
    "a time without value": (
        lambda sd: sd.schedule.at(torch.zeros(2, device="meta")), "t is a Tensor"
    ),
    "many times outside": (lambda sd: sd.schedule.at([-1] * 5000), "t is [-1.0, -1.0"),
    "steps of several": (lambda sd: sd.schedule.timesteps(torch.ones(9, 9)), "steps is tensor("),
    "steps of words": (lambda sd: sd.schedule.path(range), "steps is <class 'range'>"),
    "no text width": (lambda _: CLIPTextConfig(hidden_size=None), "hidden_size = None"),
    "text heads 0": (lambda _: CLIPTextConfig(num_heads=0), "num_heads = 0"),
    "text heads in words": (lambda _: CLIPTextConfig(num_heads="12"), "num_heads = '12'"),
    "a long activation": (lambda _: CLIPTextConfig(activation=LONG), "activation = "),
    "a tensor that predicts": (
        lambda sd: replace(sd.spec, predicts=torch.zeros(40, 50)), "predicts is tensor("
    ),
    "a long prediction": (lambda sd: replace(sd.spec, predicts=LONG), "predicts is "),
    "the name of a long model": (
        lambda sd: GenerationSettings("x", model="m" * 5000).check_model(sd), "made with the model"
    ),
    "loading into nothing": (lambda _: load_weights(None, "x"), "module is a NoneType"),
    "loading into everything": (lambda sd: load_weights(sd, "x"), "module is a StableDiffusion"),
    "saving nothing": (lambda _: save(None, "x.safetensors"), "module is a NoneType"),
    "a training folder of none": (lambda _: read_folder(None, 64), "path is None"),
    "a training folder of bytes": (lambda _: read_folder(b"x", 64), "path is b'x'"),
    "a training folder of letters": (lambda _: read_folder(LONG, 64), "path is 'xxx"),
    "training images of a size": (
        lambda _: read_folder("x", torch.zeros(9, 9)), "size is tensor("
    ),
    "training images of any size": (lambda _: read_folder("x", LONG), "size is 'xxx"),
    "huge training images": (lambda _: read_folder("x", 10**9), "size is 1000000000"),
    "a kind of tensor": (lambda _: NoiseSchedule(kind=torch.zeros(9, 9)), "kind is tensor("),
    "texts of None": (lambda sd: sd.text([None]), "prompts is [None]"),
    "resolving nothing": (lambda sd: sd.resolve(None), "sampling is None"),
    "a path of many steps": (lambda sd: sd.path(10**9), "steps is 1000000000"),
    "a path of no sampler": (lambda sd: sd.path(sampler=["ddim"]), "sampler"),
    "a spacing that cannot be shown": (lambda sd: sd.path(spacing=Awkward()), "spacing is <Awk"),
    "all of it prepacked": (lambda sd: prepack(sd), "module is a StableDiffusion"),
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


# -------------------------------------------------------------------- what is drawn as it is said


def latents(sd, **options):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return sd.text_to_image(noise=noise, steps=3, output="latent", progress=False, **options)


def test_guidance_0_draws_the_negative_or_the_empty_prompt_alone(sd, monkeypatch):
    monkeypatch.undo()
    plain = latents(sd, prompt="snow", guidance_scale=1)
    negative = latents(sd, prompt=PROMPT, negative_prompt="snow", guidance_scale=0)
    assert (plain - negative).norm() / plain.norm() < 1e-5
    empty = latents(sd, prompt=PROMPT, guidance_scale=0)
    assert (latents(sd, prompt="", guidance_scale=1) - empty).norm() / empty.norm() < 1e-5
    assert (plain - empty).norm() / plain.norm() > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"negative_prompt": "snow"}, "so the negative prompt has no influence"),
        ({"guidance_rescale": 0.5}, "so guidance_rescale has no influence"),
        ({"guidance_interval": (0, 9), "negative_prompt": "snow"},
         "so the negative prompt and guidance_interval have no influence"),
    ],
)  # fmt: skip
def test_what_has_no_influence_without_guidance_is_said(sd, options, said):
    with pytest.warns(UserWarning, match=said):
        sd.trajectory(PROMPT, guidance_scale=1, **options)


@pytest.mark.parametrize("options", [{"negative_prompt": ""}, {"negative_prompt": None}, {}])
def test_no_warning_without_a_reason(sd, options, recwarn):
    sd.trajectory(PROMPT, guidance_scale=1, **options)
    sd.trajectory(PROMPT, guidance_scale=2, negative_prompt="snow", guidance_rescale=0.5)
    assert not recwarn.list


PROMPTS = ["a\x00b", "a\r\nb\n", "\x1b[31m", "\t", "🐈", "é\x00🐈", "\x85\x9f\xff", "x" * 100_000]


@pytest.mark.parametrize("prompt", PROMPTS, ids=[f"prompt {k}" for k in range(len(PROMPTS))])
def test_odd_prompts_are_drawn_and_stored_as_they_are(sd, prompt):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert next(sd.trajectory(prompt, steps=1)).z.isfinite().all()
    assert all(len(str(each.message)) < 500 for each in warned)
    how = Sampling(seed=1, steps=2, guidance_scale=2.0, sampler="ddim")
    made = GenerationSettings(prompt, prompt, how)
    assert read_png(png_bytes(GREY, made)) == made
