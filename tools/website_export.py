"""Export the storybook model for the drawing page of the website, which runs it in the browser.

    python tools/website_export.py OUT        (`python lab.py site` does this, too)

writes to OUT/draw/model

- text.onnx, unet.onnx and decoder.onnx, the three networks as ONNX graphs;
- vocab.json and merges.txt, the tokenizer;
- config.json, the settings of the model, and the size and CRC-32 of every other file, by which the
  page recognises a damaged one;
- course.json, the words of the training captions and example prompts.

The weights are stored in half precision, as they are shipped, and each graph widens them to float32
when it is loaded, so nothing is lost. Each graph is compared with its network before it is written.
Two exports give the same bytes.
"""

import argparse
import json
import logging
import random
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import sdlearn
from sdlearn.attention import Attention
from sdlearn.clip import CLIPTextEncoder
from sdlearn.course.widgets.drawing import record_weights, step_maps
from sdlearn.course.widgets.prompts import EXAMPLES, rows
from sdlearn.pipeline import StableDiffusion
from sdlearn.schedule import NoiseSchedule
from sdlearn.storybook.captions import WORDS, caption
from sdlearn.storybook.scenes import sample_scene
from sdlearn.unet import UNet
from sdlearn.utils.atomic_files import atomic_write
from sdlearn.utils.resources import data_folder
from sdlearn.vae import VAE
from sdlearn.versions import ModelSpec

OPSET = 18
TOLERANCE = 5e-5  # largest difference between a graph and its network, at outputs of a few units
SMALLEST = 256  # weights with fewer elements stay in float32: a Cast would take as much room
CAPTIONS = 100  # random ones, for a reader who wants to be surprised


class Graph(NamedTuple):
    """A network to export.

    Attributes:
        network: The module to export. Its first axis is the batch, in all inputs and outputs.
        reference: Computes what the outputs should be, with the package's own modules.
        inputs: Example inputs by name, a batch of two.
        outputs: Names of the outputs.
    """

    network: nn.Module
    reference: Callable[..., tuple[Tensor, ...]]
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def export(out: Path) -> None:
    """Write the model for the drawing page.

    Args:
        out: The folder of the website; the files go to its folder draw/model.

    Raises:
        ValueError: If a graph differs from its network, or if the page's samplers do not fit the
            model.
    """
    sd = StableDiffusion.storybook(device="cpu")
    check_spec(sd.spec)
    folder = out / "draw" / "model"
    files = {f"{name}.onnx": onnx_bytes(name, graph) for name, graph in graphs(sd).items()}
    for name in ("vocab.json", "merges.txt"):
        files[name] = (data_folder("storybook") / "tokenizer" / name).read_bytes()
    files["course.json"] = as_json(course())
    files["config.json"] = as_json(config(sd.spec, files))  # last, because it describes the others
    for name, content in files.items():
        with atomic_write(folder / name) as part:
            part.write_bytes(content)


def check_spec(spec: ModelSpec) -> None:
    """Raise ValueError for a model whose sampling is not that of the page's sampling.js."""
    ours = NoiseSchedule(), "noise", "leading", "min", 1, "last", "uniform_lambda"
    names = ("schedule", "predicts", "spacing", "final_sigma", "steps_offset", "text_layer")
    for name, expected in zip((*names, "sigmas"), ours, strict=True):
        if getattr(spec, name) != expected:
            raise ValueError(
                f"{name} of {spec.name} is {getattr(spec, name)!r}; site/draw/sampling.js "
                f"computes the samplers of a model with {expected!r} only"
            )


# -------------------------------------------------------------------------------- the networks


def graphs(sd: StableDiffusion) -> dict[str, Graph]:
    """The three networks of a model, ready to export."""
    random_numbers = torch.Generator().manual_seed(0)
    vocabulary, length = sd.spec.text[0].vocab_size, sd.spec.text[0].max_positions
    size = sd.spec.unet.sample_size
    z = torch.randn(2, sd.spec.unet.in_channels, size, size, generator=random_numbers)
    ids = torch.randint(0, vocabulary, (2, length), generator=random_numbers, dtype=torch.int32)
    ids[:, -1] = vocabulary - 1  # every prompt ends with the end-of-text token
    (encoder,) = sd.text.encoders
    assert isinstance(encoder, CLIPTextEncoder)
    with torch.inference_mode():
        context = encoder(ids).last.clone()
    unet_inputs = {"z": z, "t": torch.tensor([500.0, 20.0]), "context": context}
    return {
        "text": Graph(
            TextStates(encoder), partial(text_states, encoder), {"ids": ids}, ("states",)
        ),
        "unet": Graph(
            UNetWithMaps(sd.unet), partial(unet_with_maps, sd.unet), unet_inputs, ("eps", "maps")
        ),
        "decoder": Graph(Decoder(sd.vae), lambda z: (sd.vae.to_image(z),), {"z": z}, ("image",)),
    }


class TextStates(nn.Module):
    """Token ids (b, 77) -> the text embeddings of all tokens, (b, 77, d)."""

    def __init__(self, encoder: CLIPTextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        # Not the encoder's own forward: its pooled output would fix the batch of the graph.
        hidden = self.encoder.encoder(self.encoder.embeddings(ids))
        return self.encoder.final_norm(hidden[-1])


def text_states(encoder: CLIPTextEncoder, ids: Tensor) -> tuple[Tensor]:
    """What `TextStates` should return."""
    return (encoder(ids).last,)


class Decoder(nn.Module):
    """Scaled latents (b, 4, h, w) -> images (b, 3, 8h, 8w) in [-1, 1]."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        return self.vae.to_image(z)


class UNetWithMaps(nn.Module):
    """The U-Net with a second output, the attention map of every token.

    (z, t, context) -> the noise (b, 4, h, w), and the cross-attention weights (b, 77, h * w),
    averaged over the heads and over the layers at the highest resolution.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        weights: list[Tensor] = []
        with cross_attention_weights(self.unet, weights):
            eps = self.unet(z, t, context)
        most = max(each.shape[1] for each in weights)
        maps = torch.stack([each for each in weights if each.shape[1] == most]).mean(0)
        return eps, maps.transpose(1, 2)


def unet_with_maps(unet: UNet, z: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """What `UNetWithMaps` should return, with the attention maps as the playground records them."""
    b, _, h, w = z.shape
    weights: dict[str, list[Tensor]] = {}
    with record_weights(unet, weights, b, context.shape[1]):
        eps = unet(z, t, context)
    maps = step_maps(weights, h, w)
    assert maps is not None
    return eps, maps.flatten(2)


@contextmanager
def cross_attention_weights(unet: nn.Module, weights: list[Tensor]) -> Iterator[None]:
    """Collect, in this context, each cross-attention's weights (b, n, m), averaged over heads."""
    layers = [m for name, m in unet.named_modules() if name.endswith("attn2")]
    for layer in layers:
        layer.__dict__["forward"] = partial(attend, layer, weights)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def attend(layer: Attention, weights: list[Tensor], x: Tensor, context: Tensor) -> Tensor:
    """What the layer computes, with its attention weights written out so that they can be kept.

    The graph has to compute them in any case; torch's fused attention would hide them.
    """
    q, k, v = (layer.split(p) for p in (layer.to_q(x), layer.to_k(context), layer.to_v(context)))
    share = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)  # (b, heads, n, m)
    weights.append(share.mean(1))
    return layer.to_out[0]((share @ v).transpose(1, 2).flatten(2))


# ---------------------------------------------------------------------------------- the graphs


def onnx_bytes(name: str, graph: Graph) -> bytes:
    """Export a network and return its file.

    Args:
        name: Its name, for the message.
        graph: The network.

    Raises:
        ValueError: If the graph's outputs differ from the network's by more than TOLERANCE.
    """
    content = serialised(widened(plain(traced(graph))))
    difference = largest_difference(content, graph)
    if not difference <= TOLERANCE:  # also for NaN
        raise ValueError(
            f"{name}.onnx differs from the network by {difference:.1e}; at most {TOLERANCE:.0e} is "
            "accepted"
        )
    return content


def traced(graph: Graph) -> onnx.ModelProto:
    """The graph as torch exports it, for a batch of any size."""
    batch = torch.export.Dim("batch", min=1, max=16)
    # The exporter warns of torchvision, which isn't needed, and of its own use of torch.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph.network.eval(),
            tuple(graph.inputs.values()),
            path,
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple({0: batch} for _ in graph.inputs),
            external_data=False,
            verbose=False,
            opset_version=OPSET,
            optimize=True,
        )
        return onnx.load(path)


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what does not compute anything: stack traces with paths, comments, inner shapes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    del graph.value_info[:]
    model.producer_name, model.producer_version = "sdlearn", ""
    return model


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store weights in half precision, and let a Cast widen each when the graph is loaded.

    A weight that half precision would round stays in float32; such are constants that torch
    computed while it exported.
    """
    graph, casts = model.graph, []
    for weight in list(graph.initializer):
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < SMALLEST:
            continue
        full = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = full.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), full):
            continue
        graph.initializer.remove(weight)
        graph.initializer.append(numpy_helper.from_array(half, f"{weight.name}.half"))
        casts.append(
            helper.make_node("Cast", [f"{weight.name}.half"], [weight.name], to=TensorProto.FLOAT)
        )
    for cast in reversed(casts):
        graph.node.insert(0, cast)  # before the nodes that use the weights
    return model


def serialised(model: onnx.ModelProto) -> bytes:
    """The model as a file holds it; equal models give equal bytes."""
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def largest_difference(content: bytes, graph: Graph) -> float:
    """The largest difference of an output from the network's, over batches of one and of two."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = 0.0
    for b in (1, 2):
        inputs = {name: x[:b] for name, x in graph.inputs.items()}
        with torch.inference_mode():
            expected = graph.reference(*inputs.values())
        found = session.run(list(graph.outputs), {name: x.numpy() for name, x in inputs.items()})
        for ours, theirs in zip(found, expected, strict=True):
            if ours.shape != tuple(theirs.shape):
                return float("inf")
            # np.maximum keeps a NaN, which Python's max would lose.
            largest = float(np.maximum(largest, np.abs(ours - theirs.numpy()).max()))
    return largest


# ------------------------------------------------------------------------------ what goes along


def config(spec: ModelSpec, files: Mapping[str, bytes]) -> dict[str, Any]:
    """What the page needs to know of the model, and of its files.

    Args:
        spec: The model.
        files: The contents of the other files, by name.
    """
    schedule = spec.schedule
    return {
        "name": spec.name,
        "sdlearn": sdlearn.__version__,
        "size": spec.resolution,
        "latent_channels": spec.unet.in_channels,
        "latent_size": spec.unet.sample_size,
        "scaling_factor": spec.vae.scaling_factor,
        "d": spec.text[0].hidden_size,
        "defaults": {
            "sampler": spec.sampler,
            "steps": spec.steps,
            "guidance": spec.guidance_scale,
        },
        "schedule": {
            "num_steps": schedule.num_steps,
            "beta_start": schedule.beta_start,
            "beta_end": schedule.beta_end,
        },
        "files": {
            name: {"bytes": len(content), "crc32": zlib.crc32(content)}
            for name, content in files.items()
        },
    }


def course() -> dict[str, Any]:
    """The vocabulary in the playground's groups, examples, and every word of the captions."""
    rng = random.Random(0)
    return {
        "vocabulary": [{"name": name, "words": list(words)} for name, words in rows().items()],
        "examples": list(EXAMPLES),
        "captions": [caption(sample_scene(rng), rng) for _ in range(CAPTIONS)],
        "words": sorted(WORDS),
    }


def as_json(content: Mapping[str, Any]) -> bytes:
    """A JSON file with an entry a line."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder of the website")
    out = parser.parse_args().out
    export(out)
    for path in sorted((out / "draw" / "model").iterdir()):
        print(f"{path.stat().st_size / 1e6:7.3f} MB  {path}")


if __name__ == "__main__":
    main()
