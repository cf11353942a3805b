"""Notebook 15: wrong answers that the checker was not written for, and right ones in another
style."""

import json
import struct

import torch

from sdlearn.course.exercises.nb15_versions import (
    best_version,
    original_block,
    original_state,
    read_header,
)
from sdlearn.weights.ldm_keys import map_key, unet_key_map
from tests.course.answers.expected_verdict import ExpectedVerdict


def with_struct(data):
    (length,) = struct.unpack("<Q", data[:8])
    text = data[8:][:length].decode()
    return {
        name: (e["dtype"], tuple(e["shape"]), *(8 + length + o for o in e["data_offsets"]))
        for name, e in json.loads(text).items()
        if name != "__metadata__"
    }


def with_the_map(name, config):
    whole = f"{name}.conv" if "samplers" in name else name
    return map_key(whole, unet_key_map(config)).removesuffix(".op").removesuffix(".conv")


def the_next_level(name, config):
    found = with_the_map(name, config)
    side, i, *rest = found.split(".")
    return f"{side}.{int(i) + 3}.{'.'.join(rest)}" if "blocks" in side else found


def sd_1_only(name, config):
    side, *level, kind, n = name.split(".")
    if side == "mid_block":
        return f"middle_block.{int(n) * 2 + (kind == 'attentions')}"
    i = 3 * int(level[0]) + (2 if kind.endswith("samplers") else int(n))
    inner = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 2}[kind]
    inner -= kind == "upsamplers" and level[0] == "0"
    return f"input_blocks.{i + 1}.{inner}" if side[0] == "d" else f"output_blocks.{i}.{inner}"


def sd_1_in_half(name, config):
    found = original_block(name, config)
    return found.replace("middle_block", "mid_block")


def with_reshape(state, names, prefix, convolutions):
    found = {}
    for name in sorted(state):
        matrix = name.split(".")[-2] in convolutions and state[name].dim() == 2
        shape = (*state[name].shape, 1, 1) if matrix else state[name].shape
        found[f"{prefix}{names[name]}"] = state[name].reshape(shape)
    return found


def with_a_loop(versions, memory, speed, patience):
    best = None
    for version in versions:
        _, parameters, activations, operations, calls = version
        seconds, total = calls * operations / speed, 2 * parameters + 2 * activations
        fits = seconds <= patience and total <= memory
        if fits and (best is None or parameters > best[1]):
            best = version
    return best[0] if best else None


def strictly_below(versions, memory, speed, patience):
    return with_a_loop(versions, memory * (1 - 1e-9), speed, patience)


def renamed(change):
    return lambda s, n, p, c: {change(k): v for k, v in original_state(s, n, p, c).items()}


WRONG = {
    "15.1": [
        lambda data: {k: (*v[:2], v[2] - 8, v[3] - 8) for k, v in read_header(data).items()},
        lambda data: {k: (v[0].lower(), *v[1:]) for k, v in read_header(data).items()},
        lambda data: {k: (v[0], v[1][::-1], *v[2:]) for k, v in read_header(data).items()},
        lambda data: {k: v[1:] for k, v in read_header(data).items()},
        lambda data: list(read_header(data).values()),
        lambda data: {k: (*v[:3], v[3] - 1) for k, v in read_header(data).items()},
        lambda data: dict(list(read_header(data).items())[:1]),
        lambda data: json.loads(data[8 : 8 + data[0]]),
    ],
    "15.2": [
        the_next_level,
        sd_1_only,
        sd_1_in_half,
        lambda name, config: name,
        lambda name, config: f"{original_block(name, config)}.0",
        lambda name, config: f"model.diffusion_model.{original_block(name, config)}",
        lambda name, config: original_block(name, config).replace("output", "out"),
    ],
    "15.3": [
        renamed(str.upper),
        renamed(lambda key: key + ".weight"),
        renamed(lambda key: key.replace(".", "_")),
        lambda s, n, p, c: {p + n[k]: v[..., None, None] for k, v in s.items()},
        lambda s, n, p, c: {k: 2 * v for k, v in original_state(s, n, p, c).items()},
        lambda s, n, p, c: list(original_state(s, n, p, c).values()),
        lambda s, n, p, c: {p + k: v for k, v in s.items()},
        lambda s, n, p, c: dict(
            zip((p + name for name in n.values()), original_state(s, n, p, c).values(), strict=True)
        ),
    ],
    "15.4": [
        6_389_761,
        865_910_724,
        256 * 77 * 16,
        2 * 256 * (6 * (320 + 640) + 5 * 1280),
        2 * 256 * 16,
        6_389_760 / 1e6,
    ],
    "15.5": [
        strictly_below,
        lambda v, memory, speed, patience: best_version(v, memory, speed, patience) or "none",
        lambda v, memory, speed, patience: best_version(v, memory / 2, speed, patience),
        lambda v, memory, speed, patience: best_version(v, memory, speed, 60 * patience),
        lambda v, memory, speed, patience: v[0][0],
        lambda v, memory, speed, patience: best_version(v[:2], memory, speed, patience),
        lambda v, memory, speed, patience: "sd1.5",
    ],
}
RIGHT = {
    "15.1": [with_struct],
    "15.2": [with_the_map],
    "15.3": [with_reshape],
    "15.4": [6_389_760, torch.tensor(6_389_760), 865_910_724 - 859_520_964],
    "15.5": [with_a_loop],
}
VERDICTS: list[ExpectedVerdict] = []
