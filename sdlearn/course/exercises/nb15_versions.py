"""Exercises and quiz of notebook 15, the real Stable Diffusion."""

import json
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import save
from torch import Generator, Tensor

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.unet import UNetConfig
from sdlearn.versions import SPECS

# -------------------------------------------------------------------- 15.1 the head of a file


def read_header(data: bytes) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """The start of a safetensors file -> name: (type, shape, first byte, end)."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        first, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = (entry["dtype"], tuple(entry["shape"]), first, end)
    return found


def header_cases(rng: Generator) -> Iterator[Case]:
    x = normal(rng, 3, 5)
    steps = torch.arange(int(x.abs().sum() * 7) % 40 + 5)
    for tensors, metadata in (
        ({"conv.weight": x.float(), "conv.bias": x[0].half()}, {"format": "pt"}),
        ({"only": x}, None),
        ({"steps": steps, "empty": x[:0].float(), "scalar": x[0, 0].float()}, None),
        ({f"block.{k}.weight": normal(rng, k + 1, 2).float() for k in range(9)}, {"step": "1000"}),
        ({"a.very.long.name." * 12 + "weight": normal(rng, 1, 2, 3, 1).bfloat16()}, None),
    ):
        yield Case((save(tensors, metadata),))
    data = save({"weight": normal(rng, 40, 60).float()}, {"format": "pt"})
    yield Case((data[: 8 + int.from_bytes(data[:8], "little")],))  # the head alone


HEADER = Exercise(
    number="15.1",
    title="The head of a file",
    minutes=12,
    difficulty=2,
    core=True,
    solution=read_header,
    cases=header_cases,
    trained=False,
)

# ------------------------------------------------------------- 15.2 the number of a block


def original_block(name: str, config: UNetConfig) -> str:
    """A block's name here, "down_blocks.1.attentions.0" -> "input_blocks.4.1"."""
    side, *level, kind, n = name.split(".")
    if side == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(n)}"
    before = int(level[0]) * (config.layers_per_block + 1)
    if side == "down_blocks":
        layer = config.layers_per_block if kind == "downsamplers" else int(n)
        return f"input_blocks.{1 + before + layer}.{int(kind == 'attentions')}"
    layer = config.layers_per_block if kind == "upsamplers" else int(n)
    has_attention = config.cross_attention[-1 - int(level[0])]
    place = {"resnets": 0, "attentions": 1, "upsamplers": 1 + has_attention}
    return f"output_blocks.{before + layer}.{place[kind]}"


THREE_LAYERS = UNetConfig(layers_per_block=3)
STORYBOOK, XL = SPECS["storybook"].unet, SPECS["sdxl"].unet


def block_cases(rng: Generator) -> Iterator[Case]:
    level, n = (int(x) for x in torch.randint(0, 2, (2,), generator=rng))
    for name, config in (
        (f"down_blocks.{level + 1}.attentions.{n}", UNetConfig()),
        (f"down_blocks.{level}.downsamplers.0", UNetConfig()),
        (f"down_blocks.3.resnets.{n}", UNetConfig()),
        ("down_blocks.2.downsamplers.0", THREE_LAYERS),
        (f"up_blocks.{level}.resnets.2", UNetConfig()),
        (f"up_blocks.{level + 2}.attentions.{n}", UNetConfig()),
        ("up_blocks.0.upsamplers.0", UNetConfig()),
        ("up_blocks.2.upsamplers.0", THREE_LAYERS),
        ("up_blocks.1.attentions.1", XL),
        ("up_blocks.0.upsamplers.0", XL),
        (f"down_blocks.1.resnets.{n}", XL),
        ("down_blocks.1.attentions.0", STORYBOOK),
        ("up_blocks.0.upsamplers.0", STORYBOOK),
        ("up_blocks.1.resnets.1", STORYBOOK),
        (f"mid_block.resnets.{n}", UNetConfig()),
        ("mid_block.resnets.1", XL),
        ("mid_block.attentions.0", STORYBOOK),
    ):
        yield Case((name, config))


BLOCK = Exercise(
    number="15.2",
    title="The number of a block",
    minutes=18,
    difficulty=3,
    core=True,
    solution=original_block,
    cases=block_cases,
    trained=False,
)

# ----------------------------------------------------------------- 15.3 weights in another layout


def original_state(
    state: dict[str, Tensor],
    names: dict[str, str],
    prefix: str,
    convolutions: tuple[str, ...],
) -> dict[str, Tensor]:
    """Weights by their names here -> the same as an original file holds them."""
    found = {}
    for name, tensor in state.items():
        *_, layer, kind = name.split(".")
        if layer in convolutions and kind == "weight" and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]  # (out, in) -> (out, in, 1, 1)
        found[prefix + names[name]] = tensor
    return found


def state_cases(rng: Generator) -> Iterator[Case]:
    block = "down_blocks.1.attentions.0"
    for prefix, convolutions, shapes in (
        (
            "model.diffusion_model.",
            ("proj_in", "proj_out"),
            {
                "conv_in.weight": (2, 4, 3, 3),
                f"{block}.proj_in.weight": (4, 4),
                f"{block}.proj_in.bias": (4,),
                f"{block}.transformer_blocks.0.ff.net.0.proj.weight": (8, 4),
                f"{block}.transformer_blocks.0.attn1.to_q.weight": (4, 4),
                f"{block}.proj_out.weight": (4, 4),
            },
        ),
        (
            "first_stage_model.",
            ("to_q", "0"),
            {
                "encoder.mid_block.attentions.0.to_q.weight": (3, 5),
                "encoder.mid_block.attentions.0.to_q.bias": (3,),
                "encoder.mid_block.attentions.0.to_out.0.weight": (5, 3),
                "encoder.mid_block.attentions.0.group_norm.weight": (5,),
                "encoder.down_blocks.0.downsamplers.0.weight": (2, 2, 3, 3),
                "encoder.blocks.0.to_k.weight": (3, 5),
            },
        ),
        (
            "",
            ("proj_in",),
            {"mid_block.attentions.0.proj_in.weight": (2, 1), "a.b.to_q.bias": (6,)},
        ),
        ("text.", (), {"text.layers.0.fc1.weight": (2, 7), "text.proj_in.weight": (3, 3)}),
    ):
        state = {name: normal(rng, *shape) for name, shape in shapes.items()}
        names = {name: f"block_{k}.{name[-9:]}" for k, name in enumerate(state)}
        reversed_names = dict(reversed(names.items()))
        yield Case((state, reversed_names, prefix, convolutions))


STATE = Exercise(
    number="15.3",
    title="Weights in another layout",
    minutes=10,
    difficulty=2,
    core=True,
    solution=original_state,
    cases=state_cases,
    trained=False,
)

# -------------------------------------------------------------------------- 15.4 counted by hand

WIDER = Exercise(
    number="15.4",
    title="Wider words, counted by hand",
    minutes=8,
    difficulty=1,
    solution=2 * (1024 - 768) * (5 * (320 + 640 + 1280) + 1280),
)

# ------------------------------------------------------------------ 15.5 a version for a machine


def best_version(
    versions: list,
    memory: float,
    speed: float,
    patience: float,
) -> str | None:
    """The largest version that fits into a machine's memory and a user's patience."""
    fitting = [
        (parameters, name)
        for name, parameters, activations, operations, calls in versions
        if 2 * (parameters + activations) <= memory and calls * operations / speed <= patience
    ]
    return max(fitting)[1] if fitting else None


VERSIONS: list[Any] = [
    ("sd1.5", 1.07e9, 2.0e8, 8.0e11, 102),
    ("SDXL", 3.47e9, 8.0e8, 6.8e12, 100),
    ("sd2.1", 1.29e9, 4.5e8, 2.1e12, 100),
]


def version_cases(rng: Generator) -> Iterator[Case]:
    for memory, speed, patience in (
        (24e9, 1e14, 60),
        (8.0e9, 1e14, 60),  # the weights of SDXL fit, its activations do not
        (3.0e9, 1e14, 60),
        (24e9, 5e12, 60),  # SDXL would take over two minutes
        (24e9, 5e10, 3600),
        (24e9, 5e10, 900),
        (24e9, 1e11, 5),  # not even one evaluation
        (2 * (1.07e9 + 2.0e8), 8.0e11, 102),  # exactly
        (4e9, 2.1e12, 100),
    ):
        order = torch.randperm(3, generator=rng).tolist()
        yield Case(([VERSIONS[k] for k in order], memory, speed, patience))


VERSION = Exercise(
    number="15.5",
    title="A version for a machine",
    minutes=8,
    difficulty=1,
    solution=best_version,
    cases=version_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(__name__, HEADER, BLOCK, STATE, WIDER, VERSION)
