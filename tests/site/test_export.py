"""The exported model: equal to the network, to itself, and without a trace of who exported it."""

import json
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlearn.course.attention_maps import accumulate_weights, token_maps
from sdlearn.course.widgets.prompts import EXAMPLES, rows
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook.captions import WORDS, unknown_words
from sdlearn.utils.resources import data_folder
from tests.site_parts import need

need("onnx")
need("onnxruntime")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import website_export  # noqa: E402
from onnx import TensorProto, numpy_helper  # noqa: E402

NAMES = ("text", "unet", "decoder")


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.storybook(device="cpu")


@pytest.fixture(scope="module")
def model(built) -> Path:
    return built / "draw" / "model"


def run(model: Path, name: str, **inputs: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model / f"{name}.onnx", providers=["CPUExecutionProvider"]
    )
    return session.run(None, {key: value.numpy() for key, value in inputs.items()})


@pytest.fixture(scope="module")
def inputs(sd):
    """A real prompt and an empty one, and a latent between noise and image."""
    with torch.inference_mode():
        context = sd.text(["", "a red cat on the sand"]).context.clone()
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    return {"z": z, "t": torch.tensor([261.0, 931.0]), "context": context}


@pytest.mark.parametrize("b", [1, 2])
def test_the_text_encoder(model, sd, b):
    from sdlearn.text import token_ids

    prompts = ["a red cat on the sand", ""][:b]
    ids = token_ids(sd.text.tokenizers[0], prompts).int()
    (states,) = run(model, "text", ids=ids)
    with torch.inference_mode():
        assert np.abs(states - sd.text(prompts).context.numpy()).max() <= 5e-5


@pytest.mark.parametrize("b", [1, 2])
def test_the_unet(model, sd, inputs, b):
    given = {name: each[:b] for name, each in inputs.items()}
    eps, maps = run(model, "unet", **given)
    totals: dict[str, torch.Tensor] = {}
    with torch.inference_mode(), accumulate_weights(sd.unet, totals):
        expected = sd.unet(*given.values())
    assert np.abs(eps - expected.numpy()).max() <= 5e-5
    # As the notebooks record the attention, of the last example of the batch.
    recorded = token_maps(totals).flatten(1).numpy()
    assert maps.shape == (b, 77, 64)
    assert np.abs(maps[-1] - recorded).max() <= 5e-6


@pytest.mark.parametrize("b", [1, 2])
def test_the_decoder(model, sd, b):
    z = torch.randn(b, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    (image,) = run(model, "decoder", z=z)
    with torch.inference_mode():
        assert np.abs(image - sd.vae.to_image(z).numpy()).max() <= 5e-5


def test_a_second_export_has_the_same_bytes_and_is_quiet(model, tmp_path, capfd):
    with warnings.catch_warnings(action="error"):
        website_export.export(tmp_path)
    assert capfd.readouterr() == ("", "")
    again = tmp_path / "draw" / "model"
    assert {p.name for p in again.iterdir()} == {p.name for p in model.iterdir()}
    for path in again.iterdir():
        assert path.read_bytes() == (model / path.name).read_bytes(), path.name


def test_no_file_tells_where_it_was_made(model):
    root = str(Path(__file__).resolve().parents[2]).encode()
    for path in model.iterdir():
        content = path.read_bytes()
        for trace in (b"/work", b"/home", b"/root", b"/tmp", b"site-packages", b".py", root):
            assert trace not in content, f"{path.name} holds {trace!r}"


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_stored_as_they_are_shipped(model, sd, name):
    """In half precision, each widened by one Cast; what stays in float32 is small or inexact."""
    graph = onnx.load(model / f"{name}.onnx").graph
    halves = {w.name for w in graph.initializer if w.data_type == TensorProto.FLOAT16}
    casts = {
        node.input[0]: node for node in graph.node if node.input[:1] and node.op_type == "Cast"
    }
    assert len(halves) > 20
    for half in halves:
        (attribute,) = casts[half].attribute
        assert attribute.i == TensorProto.FLOAT
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and np.prod(weight.dims) >= 256:
            full = numpy_helper.to_array(weight)
            assert not np.array_equal(full.astype(np.float16).astype(np.float32), full)
    assert not any(w.external_data for w in graph.initializer)
    assert {
        each.domain: each.version for each in onnx.load(model / f"{name}.onnx").opset_import
    } == {"": 18}


def test_the_files_together_stay_small(model):
    assert sum(path.stat().st_size for path in model.iterdir()) < 28e6


def test_the_tokenizer_s_files_are_those_of_the_model(model):
    for name in ("vocab.json", "merges.txt"):
        assert (model / name).read_bytes() == (
            data_folder("storybook/tokenizer") / name
        ).read_bytes()


def test_config(model, sd):
    config = json.loads((model / "config.json").read_text("utf-8"))
    assert config["defaults"] == {"sampler": "ddim", "steps": 30, "guidance": 3.0}
    assert (config["name"], config["size"], config["d"]) == ("storybook", 64, 128)
    assert config["scaling_factor"] == sd.spec.vae.scaling_factor
    files = {path.name for path in model.iterdir()} - {"config.json"}
    assert set(config["files"]) == files
    for name, expected in config["files"].items():
        content = (model / name).read_bytes()
        assert expected == {"bytes": len(content), "crc32": zlib.crc32(content)}


def test_course(model):
    course = json.loads((model / "course.json").read_text("utf-8"))
    assert {group["name"]: tuple(group["words"]) for group in course["vocabulary"]} == rows()
    assert course["examples"] == list(EXAMPLES)
    assert set(course["words"]) == WORDS
    assert len(course["captions"]) == 100
    assert not any(map(unknown_words, [*course["captions"], *course["examples"]]))


@pytest.mark.parametrize("factor", [1.0001, float("nan")])
def test_a_graph_that_differs_is_refused(sd, factor):
    """A decoder of slightly different latents, such as a wrong scaling factor makes, or of none."""
    graph = website_export.graphs(sd)["decoder"]
    wrong = graph._replace(reference=lambda z: (sd.vae.to_image(factor * z),))
    said = r"^decoder\.onnx differs from the network by .*; at most 5"
    with pytest.raises(ValueError, match=said):
        website_export.onnx_bytes("decoder", wrong)


def test_a_model_that_the_page_cannot_sample_is_refused(sd):
    from dataclasses import replace

    website_export.check_spec(sd.spec)
    with pytest.raises(ValueError, match=r"^predicts of storybook is 'velocity'; site/draw/sampl"):
        website_export.check_spec(replace(sd.spec, predicts="velocity"))
