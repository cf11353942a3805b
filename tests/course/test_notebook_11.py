"""The pipeline of notebook 11 is the library's, with any weights, and a slip in it is noticed.

nbval runs the notebook with the shipped model. Here its functions run with a tiny random one, so
that nothing depends on how good the shipped weights are.
"""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sdlearn
from sdlearn.course import solution
from sdlearn.course.exercises.nb11_pipeline import decode_tiled
from sdlearn.course.figures import text_to_image as drawn
from sdlearn.course.figures.images import label_font
from sdlearn.course.live_memory import peak_bytes
from sdlearn.course.widgets.image_size import SIDES, ImageSizeWidget, count_objects
from sdlearn.evaluation import load_judge
from sdlearn.samplers import SAMPLERS, State
from sdlearn.schedule import Point
from sdlearn.storybook import Scene, Thing, render
from sdlearn.text import Conditioning

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "11-text-to-image.ipynb"
GIVEN = ("guided_denoiser", "to_pil", "Mine", "chunks_of")
TYPED = ("11.1", "11.2", "11.3", "11.4")
PROMPTS = ["two green fish in the sea by day", "a red cat", ""]
SETTINGS = (
    {"steps": 3},
    {"n": 2, "steps": 2, "sampler": "dpm_pp_2m", "seed": 9},
    {"negative": "a house", "steps": 3, "scale": 4.5},
    {"negative": ["a house", "rain", "snow"], "n": 2, "steps": 2, "sampler": "ddpm"},
    {"sampler": "euler_ancestral", "steps": 3, "seed": 123},
    {"scale": 1.0, "steps": 3, "sampler": "plms"},
    {"height": 48, "width": 80, "steps": 2, "sampler": "heun"},
)


@pytest.fixture(scope="module")
def unlearned() -> sdlearn.StableDiffusion:
    """The shipped tokenizer, and small networks with random weights."""
    real = sdlearn.StableDiffusion.storybook(device="cpu")
    tokenizer = real.text.tokenizers[0]
    text = replace(
        real.spec.text[0], hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32
    )
    unet = replace(
        real.spec.unet,
        block_out_channels=(8, 16),
        num_heads=(2, 2),
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    vae = replace(real.spec.vae, block_out_channels=(4, 8, 8, 8), norm_num_groups=4)
    torch.manual_seed(0)
    encoder = sdlearn.TextEncoder([tokenizer], [sdlearn.CLIPTextEncoder(text)])
    parts = sdlearn.UNet(unet), sdlearn.VAE(vae), encoder
    for module in parts:
        module.eval().requires_grad_(False)
    return sdlearn.StableDiffusion(*parts, replace(real.spec, text=(text,), unet=unet, vae=vae))


def built(sd: sdlearn.StableDiffusion, change: tuple[str, str] = ("", "")) -> dict:
    """The functions as notebook and solutions define them, with a piece of their text replaced."""
    names = {
        "torch": torch, "nn": nn, "Tensor": Tensor, "np": np, "Image": Image, "sdlearn": sdlearn,
        "SAMPLERS": SAMPLERS, "State": State, "Point": Point, "Conditioning": Conditioning,
        "tokenizer": sd.text.tokenizers[0],
    }  # fmt: skip
    texts = [solution(number).text for number in TYPED]
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.parse("".join(cell["source"])).body:
                if getattr(node, "name", "") in GIVEN:
                    texts.append(ast.unparse(node))
    old, new = change
    assert not old or any(old in text for text in texts), f"no text contains {old!r}"
    for text in texts:
        exec(text.replace(old, new) if old else text, names)
    return names


def compared(names: dict, sd: sdlearn.StableDiffusion) -> None:
    mine = names["Mine"](sd)
    for settings in SETTINGS:
        renamed = {"negative": "negative_prompt", "scale": "guidance_scale"}
        options = {renamed.get(key, key): value for key, value in settings.items()}
        options = {"guidance_scale": 3.0, "sampler": "ddim"} | options
        expected = sd.text_to_image(PROMPTS, output="latent", progress=False, **options)
        found = mine.latents(PROMPTS, **settings)
        assert torch.equal(found, expected), settings
        pictures = sd.to_images(expected)
        for a, b in zip(mine.images(PROMPTS, **settings), pictures, strict=True):
            assert np.array_equal(np.array(a), np.array(b))


def test_its_pipeline_is_the_library_s_to_the_bit(unlearned):
    names = built(unlearned)
    assert set(GIVEN) <= set(names)
    compared(names, unlearned)


@pytest.mark.parametrize(
    "change",
    [
        ("seed + k) for", "seed) for"),
        ("for _ in range(draws)", "for _ in range(1)"),
        ("torch.lerp(eps_uncond, eps_cond, scale)", "torch.lerp(eps_cond, eps_uncond, scale)"),
        ("if scale == 1", "if scale == 2"),
        ("(z - here.sigma * eps) / here.alpha", "z - here.sigma * eps"),
        ("return first + last", "return last + first"),
        ("[text for text in negative for _ in range(n)]", "negative * n"),
        ("uncond, cond = encode", "cond, uncond = encode"),
        ("lambda: next(draws)", "lambda: start"),
        ("return last.z", "return last.z_0"),
        ("height // 8, width // 8", "width // 8, height // 8"),
        ("steps + 1)", "steps)"),
        ("sampler='ddim'", "sampler='ddpm'"),
        ("* 127.5)", "* 127)"),
        ("permute(0, 2, 3, 1)", "permute(0, 3, 2, 1)"),
    ],
)
def test_a_slip_in_its_pipeline_is_noticed(unlearned, change):
    with pytest.raises((AssertionError, RuntimeError, ValueError, StopIteration, TypeError)):
        compared(built(unlearned, change), unlearned)


def test_a_prompt_of_one_chunk_has_the_embeddings_of_the_text_encoder(unlearned):
    names = built(unlearned)
    for prompt in ("a red cat", ""):
        length, parts = names["chunks_of"](prompt)
        pair = names["long_embeddings"](unlearned.text, [""], parts)
        assert length == len(prompt.split())
        assert torch.equal(torch.cat(pair), unlearned.text(["", *parts]).context)
    length, parts = names["chunks_of"]("on the grass by day, " * 14 + "a red cat")
    uncond, cond = names["long_embeddings"](unlearned.text, [""], parts)
    assert length == 87
    assert [part.shape for part in (uncond, cond)] == [(1, 154, 16)] * 2
    assert torch.equal(cond[:, :77], unlearned.text([parts[0]]).context)


def test_tiles_as_large_as_the_latent_change_nothing(unlearned):
    z = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    whole = unlearned.vae.to_image(z)
    assert torch.allclose(decode_tiled(unlearned.vae.to_image, z, 5, 2, 8), whole, atol=1e-5)


# ------------------------------------------------------------------------------------ its helpers


def test_live_memory_counts_what_is_alive_at_a_time():
    x = torch.empty(1000, device="meta")
    assert peak_bytes(lambda x: x + 1, x) == 4000
    assert peak_bytes(lambda x: ((x + 1) + 1) + 1, x) == 8000  # an input and an output
    assert peak_bytes(lambda x: [x + k for k in range(5)], x) == 20000
    assert peak_bytes(lambda x: x.view(10, 100).T, x) == 0  # no memory of its own

    def skipped(x):
        kept = x + 1
        return ((kept + 1) + 1) + kept

    assert peak_bytes(skipped, x) == 12000


def test_its_figures_are_described_with_their_data():
    assert all(f"11.{k}" in drawn.functions().words for k in range(1, 6))
    images = [Image.new("RGB", (64, 64), "red"), Image.new("RGB", (96, 96), "blue")]
    rows = drawn.rows_of_images({"one": images, "two": images}, ["a", "b"], "title", "Said.", 50)
    assert rows.words.startswith("Rows of images with the columns a; b. The rows: one; two.")
    assert rows.figure.width >= 2 * 50
    sheet = drawn.sheet({"small": images[0], "large": images[1]}, "title", "Said.", 1)
    assert "small; large" in sheet.words
    wide = drawn.sheet({"a long name of an image": images[0], "b": images[1]}, "title", "Said.", 1)
    name = label_font(13).getlength("a long name of an image")
    assert wide.figure.width >= 8 + name + 15 + 96 + 8  # 15 or more between the names
    assert drawn.listed({"96 × 96": [1, 3], "cut off": 0}) == "96 × 96: 1, 3; cut off: 0"
    chart = drawn.peak_memory([256, 512], {"decoder": [0.1, 0.4]}, 2.1)
    assert "decoder: 0.10 at 256, 0.40 at 512. All weights: 2.1." in chart.words
    (ax,) = chart.figure.axes
    ticks = [tick.get_text() for tick in ax.get_yticklabels()]
    assert ticks == ["0.1", "0.3", "1"]


def test_the_judge_counts_objects_at_their_own_scale():
    places = ("cat", "red", 0.27), ("house", "blue", 0.73)
    things = tuple(Thing(kind, colour, "plain", x, 0.7, 0.35) for kind, colour, x in places)
    page = render(Scene("day", "grass", things), 64)
    wide = Image.new("RGB", (128, 64))
    for k in (0, 1):
        wide.paste(page, (64 * k, 0))
    judge = load_judge()
    assert count_objects(judge, [page, page]) == [2, 2]
    assert count_objects(judge, [wide]) == [4]


def test_the_widget_paints_every_size(unlearned):
    widget = ImageSizeWidget(unlearned, load_judge(), ["a red cat", "a blue house"], steps=1)
    assert widget.image.size == (64, 64)
    for side in SIDES:
        widget.high.value, widget.wide.value = side, SIDES[0]
        assert widget.image.size == (SIDES[0], side)
        assert f"{side} × {SIDES[0]} pixels, seed 0: the judge counts" in widget.alt
    before = np.array(widget.image)
    widget.prompt.value = "a blue house"
    widget.seed.value = 4
    assert "a blue house" in widget.alt
    assert "seed 4" in widget.message.value
    assert not np.array_equal(np.array(widget.image), before)
