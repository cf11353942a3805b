"""Notebook 15: what the learner writes reads and names files as the library does; its widget."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

import sdlearn
from sdlearn.course import solution, version_costs
from sdlearn.course.figures import versions as drawn
from sdlearn.course.widgets import VersionCostsWidget
from sdlearn.unet import UNetConfig
from sdlearn.weights import tensor_files
from sdlearn.weights.ldm_keys import UNET, UNET_RESNET, key_map
from tests.local_hub import install
from tests.notebook_parts import folded_assertions

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "15-real-stable-diffusion.ipynb"
NUMBERS = ("15.1", "15.2", "15.3")
CONFIGS = {name: sdlearn.SPECS[name].unet for name in ("sd1.5", "sd2.1", "sdxl", "storybook")}
LAYERS = ("proj_in", "proj_out")


def source(*ids: str) -> str:
    """The code of some of the notebook's cells."""
    cells = {cell["id"]: cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]}
    return "\n".join("".join(cells[each]["source"]) for each in ids)


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The learner's functions and `original_name`, with a piece of their text replaced."""
    names = {"json": json, "Tensor": Tensor, "UNetConfig": UNetConfig}
    names |= {"UNET": UNET, "UNET_RESNET": UNET_RESNET}
    texts = [solution(number).text for number in NUMBERS]
    texts.append(source("names").partition("\n\nagree")[0])
    assert not change[0] or any(change[0] in text for text in texts)
    for text in texts:
        exec(text.replace(*change), names)
    return names


def unet(config: UNetConfig) -> sdlearn.UNet:
    with torch.device("meta"):
        return sdlearn.UNet(config)


def compared(names: dict, folder: Path) -> None:
    path = folder / "some.safetensors"
    tensors = {"b.weight": torch.rand(3, 4), "a.bias": torch.rand(5).half(), "n": torch.ones(1, 2)}
    save_file(tensors, path, {"format": "pt"})
    data, opened = path.read_bytes(), tensor_files.open_weights(path)
    header = names["read_header"](data)
    assert header.keys() == opened.keys()
    for name, (kind, shape, first, end) in header.items():
        assert tensor_files.TYPES[kind] == opened[name].dtype
        values = torch.frombuffer(bytearray(data[first:end]), dtype=opened[name].dtype)
        assert torch.equal(values.reshape(shape), opened[name].read())
    for config in CONFIGS.values():
        theirs = key_map(unet(config))
        assert {key: names["original_name"](key, config) for key in theirs} == theirs
    config = replace(CONFIGS["storybook"], block_out_channels=(32, 32), num_heads=(2, 2))
    small = sdlearn.UNet(config)
    path = folder / "unet.safetensors"
    translated = key_map(small)
    prefix = "model.diffusion_model."
    state = names["original_state"](small.state_dict(), translated, prefix, LAYERS)
    assert {*state} == {prefix + name for name in translated.values()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    shapes = {tensor.ndim for name, tensor in state.items() if "proj_in.weight" in name}
    assert shapes == {4}
    again = sdlearn.UNet(config)
    sdlearn.weights.load(again, path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(small.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_its_parts_do_what_the_library_does(tmp_path):
    compared(built(), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        ('"little"', '"big"'),
        ("8 + length + offset", "length + offset"),
        ('header.pop("__metadata__", None)', ""),
        ("1 + before + layer", "before + layer"),
        ("config.layers_per_block + 1", "config.layers_per_block"),
        ("cross_attention[-1 - int(level[0])]", "cross_attention[int(level[0])]"),
        ("1 + has_attention", "2"),
        ("2 * int(n)", "int(n)"),
        ('inner[0] = "op"', "pass"),
        ("[:, :, None, None]", ""),
        ("tensor[:, :, None, None]", "tensor.T[:, :, None, None]"),
        ("prefix + names[name]", "names[name]"),
        ("UNET_RESNET[inner[0]]", "inner[0]"),
    ],
)
def test_a_slip_in_its_parts_is_noticed(change, tmp_path):
    with pytest.raises((AssertionError, ValueError, KeyError, TypeError)):
        compared(built(change), tmp_path)


def test_the_length_of_a_file_is_that_of_the_file(tmp_path):
    names = {"json": json, "math": __import__("math")}
    text = source("length")
    exec(text[text.index("def safetensors_length") :], names)
    tensors = {"b": torch.rand(2, 3), "a": torch.rand(4).half(), "c": torch.arange(5)}
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    shapes = {name: (kinds[x.dtype], list(x.shape)) for name, x in tensors.items()}
    head, values = names["safetensors_length"](shapes)
    data = save(tensors, {"format": "pt"})
    assert values == sum(x.nbytes for x in tensors.values())
    assert 8 + -(-head // 8) * 8 + values == len(data)


def test_published_weights_are_drawn_from_a_folder_or_the_hub(
    tiny_storybook, tmp_path, monkeypatch
):
    names = {"sdlearn": sdlearn, "costs": version_costs_of_one(), "REAL": None}
    exec(source("real-weights"), names)
    assert names["told"] == "SD 1.5 in float32: 4.0 GB\nto download and to hold in memory"
    tiny_storybook.save_pretrained(tmp_path / "tiny")
    install(monkeypatch, {"some/storybook": tmp_path / "tiny"}, tmp_path / "cache")
    settings = {"steps": 1, "progress": False}
    first = names["real_image"](tmp_path / "tiny", "a red cat", **settings)
    second = names["real_image"]("some/storybook", "a red cat", **settings)
    assert first.tobytes() == second.tobytes()


def version_costs_of_one() -> dict:
    one = version_costs.Cost({"U-Net": 10**9}, {}, 0, 0, 0)
    return {"sd1.5": one}


def test_what_a_version_costs():
    one = version_costs.cost("sd1.5", 512)
    assert one.parameters == {
        "text": 123_060_480,
        "U-Net": 859_520_964,
        "autoencoder": 83_653_863,
    }
    assert one.unet_flops == 803_273_441_280
    assert one.evaluations == 102
    assert one.decoder_flops / one.unet_flops == pytest.approx(3.13, abs=0.01)
    assert one.image_flops == 102 * one.unet_flops + one.decoder_flops
    assert one.activations["decoder"] * 2 == pytest.approx(0.403e9, rel=0.01)
    with pytest.raises(ValueError, match=r"no version 'sd9'; accepted: sd1\.4"):
        version_costs.cost("sd9", 512)


def test_the_widget_at_the_ends_of_its_sliders():
    widget = VersionCostsWidget("sd1.5", 256)
    least = widget.gigabytes
    assert "1 image of 256 × 256 in float16: " in widget.message.value
    widget.batch.value = 8
    assert widget.gigabytes > least
    assert widget.teraflops == pytest.approx(
        8 * version_costs.cost("sd1.5", 256).image_flops / 1e12
    )
    half = widget.gigabytes
    widget.precision.value = "float32"
    assert widget.gigabytes == pytest.approx(2 * half)
    assert "8 images" in widget.alt


def test_an_autoencoder_that_overflows_is_counted_in_float32():
    widget = VersionCostsWidget("sdxl", 1024)
    one = version_costs.cost("sdxl", 1024)
    assert one.upcast
    assert widget.activations["decoder"] == pytest.approx(4 * one.activations["decoder"] / 1e9)
    weights = 2 * (one.parameters["text"] + one.parameters["U-Net"])
    weights += 4 * one.parameters["autoencoder"]
    largest = 4 * one.activations["decoder"]
    assert widget.gigabytes == pytest.approx((weights + largest) / 1e9)
    widget.precision.value = "float32"
    assert widget.activations["decoder"] == pytest.approx(4 * one.activations["decoder"] / 1e9)


def test_its_claims_are_asserted():
    assert folded_assertions(NOTEBOOK) >= 8


def test_its_figures_say_what_they_show():
    figure = drawn.changes([("SD 1.5\n512 × 512", 860.0, 803.0), ("wider", 866.0, 804.0)])
    assert figure.words.endswith("SD 1.5 512 × 512: 860 and 803; wider: 866 and 804.")

    figure = drawn.file_map(100, '"a": {}', 208, 308, 500)
    assert "header, 100 bytes" in figure.words
    assert "bytes 208 to 308" in figure.words
    texts = [text.get_text() for text in figure.figure.axes[0].texts]
    assert {"0", "8", "108", "208", "500"} <= set(texts)

    figure = drawn.missing_tensors({"a.weight": 0.5, "a.bias": 0.002, "b.bias": 0.0})
    assert "2 are below 1%" in figure.words
    assert "largest of a bias 0.002" in figure.words

    figure = drawn.block_seconds([("ResBlocks, 8 × 8", 2, 1.5)], "Title")
    assert figure.words.endswith("2 ResBlocks, 8 × 8: 1.5 s.")
    figure = drawn.block_seconds([("transformers, 8 × 8", 1, 0.1)], "Title")
    assert figure.words.endswith("1 transformer, 8 × 8: 0.1 s.")
    (label,) = figure.figure.axes[0].get_yticklabels()
    assert label.get_text() == "1 transformer, 8 × 8"

    figure = drawn.version_costs({"text": 0.25, "U-Net": 1.7}, {"U-Net": 0.1}, "Title")
    assert figure.words == (
        "Bars of memory in GB. Weights: text 0.25, U-Net 1.70. Activations: U-Net 0.10."
    )
    labels = [label.get_text() for label in figure.figure.axes[0].get_yticklabels()]
    assert labels == ["weights, text", "weights, U-Net", "activations, U-Net"]


@pytest.mark.parametrize("name", ["sd1.5", "sdxl", "storybook"])
def test_every_block_is_drawn_with_both_names(name):
    config = CONFIGS[name]
    figure = drawn.block_numbers(config, "Title")
    for key, theirs in key_map(unet(config)).items():
        if key.endswith("conv1.weight") and "mid_block" not in key:
            block = key.removesuffix(".conv1.weight")
            other = theirs.removesuffix(".in_layers.2.weight")
            assert f"{block} is {other}" in figure.words
