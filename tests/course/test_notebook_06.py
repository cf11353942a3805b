"""The classes of notebook 06, taken out of it, are the finished ones, and a slip is noticed; what
it prints about the published systems is true."""

import ast
import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sdlearn
from sdlearn import unet as finished
from sdlearn.attention import SpatialTransformer
from sdlearn.course import check
from sdlearn.embeddings import TimeEmbedding, sinusoidal_embedding
from sdlearn.versions import STORYBOOK

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "06-unet.ipynb"
CLASSES = (
    "ResBlock",
    "Downsample",
    "Upsample",
    "Level",
    "DownBlock",
    "MidBlock",
    "UpBlock",
    "UNet",
)
FUNCTIONS = ("time_dim", "skip_widths")
CONFIG = sdlearn.UNetConfig(
    block_out_channels=(16, 24, 32),
    cross_attention=(True, True, False),
    transformer_depth=(1, 2, 1),
    num_heads=(2, 3, 4),
    cross_attention_dim=10,
    norm_num_groups=8,
)


def cells() -> list[dict]:
    found = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
    return found


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The classes as the notebook defines them, with a piece of their text replaced."""
    names = {
        "torch": torch,
        "nn": nn,
        "F": F,
        "SpatialTransformer": SpatialTransformer,
        "TimeEmbedding": TimeEmbedding,
        "sinusoidal_embedding": sinusoidal_embedding,
    }
    replaced = change == ("", "")
    for cell in cells():
        if cell["cell_type"] == "code":
            for node in ast.parse(cell["source"]).body:
                if getattr(node, "name", "") in CLASSES + FUNCTIONS and node.name not in names:
                    text = ast.unparse(node)
                    replaced = replaced or change[0] in text
                    exec(text.replace(*change), names)
    assert replaced, f"{change[0]!r} is not in the notebook's classes"
    return names


def inputs(*shapes):
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=rng) for shape in shapes]


def compared(names: dict) -> None:
    x, skip, emb, text, z = inputs(
        (2, 16, 5, 7), (2, 16, 9, 13), (2, 12), (2, 7, 10), (2, 4, 9, 13)
    )
    t, size = torch.tensor([3.0, 710.5]), skip.shape[-2:]
    for name, build, given in (
        ("ResBlock", (16, 16, 12, 4), [x / 30, emb]),
        ("ResBlock", (16, 24, 12, 4), [x, emb]),
        ("Downsample", (16,), [skip]),
        ("Upsample", (16,), [x, size]),
        ("UNet", (CONFIG,), [z, t, text]),
        (
            "UNet",
            (replace(CONFIG, layers_per_block=1, cross_attention=(False, True, True)),),
            [z, t, text],
        ),
    ):
        check.same(names[name](*build), getattr(finished, name)(*build), *given)


def test_its_classes_are_the_finished_ones():
    names = built()
    assert set(CLASSES + FUNCTIONS) <= set(names)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(names)
    assert said.getvalue().count("same: ") == 6
    for spec in sdlearn.SPECS.values():
        assert names["skip_widths"](spec.unet) == finished.skip_widths(spec.unet)


def test_its_u_net_agrees_with_the_weights_of_the_finished_one_in_float64():
    """Without the help of check.same, and with the names of the published files."""
    torch.manual_seed(0)
    theirs = finished.UNet(CONFIG).double()
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    mine = built()["UNet"](CONFIG).double()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    z, text = (x.double() for x in inputs((2, 4, 11, 6), (2, 7, 10)))
    expected = theirs(z, 500, text)
    assert (mine(z, 500, text) - expected).norm() / expected.norm() <= 1e-12


@pytest.mark.parametrize(
    "change",
    [
        ("F.silu(self.norm1(x))", "self.norm1(F.silu(x))"),
        ("F.silu(self.norm2(h))", "self.norm2(h)"),
        ("self.time_emb_proj(F.silu(emb))", "self.time_emb_proj(emb)"),
        ("eps=1e-05", "eps=1e-06"),
        ("return around + h", "return h"),
        ("stride=2, padding=1", "stride=2, padding=0"),
        ("mode='nearest'", "mode='bilinear'"),
        ("torch.cat([h, skip], dim=1)", "torch.cat([skip, h], dim=1)"),
        ("reversed(skips)", "skips"),
        ("reversed(skip_widths)", "skip_widths"),
        ("kept[:(i + 1) * per_level]", "kept"),
        ("skips = skips[:-len(block.resnets)]", "pass"),
        ("[c_in] + [c] * config.layers_per_block", "[c] * (config.layers_per_block + 1)"),
        ("attentions=1", "attentions=int(config.cross_attention[-1])"),
        ("attentions=1", "attentions=2"),
        ("layers if config.cross_attention[i] else 0", "layers"),
        ("len(widths) if config.cross_attention[i] else 0", "len(widths)"),
        ("skips[-own - 1].shape[-2:]", "[2 * side for side in h.shape[-2:]]"),
        ("skips[-own - 1].shape[-2:]", "skips[-own].shape[-2:]"),
        ("skips = [h]", "skips = [h * 1.0001]"),
        ("self.mid_block(skips[-1], emb, context)", "skips[-1]"),
        ("config.num_heads[i]", "config.num_heads[0]"),
        ("config.transformer_depth[i]", "1"),
        ("4 * config.block_out_channels[0]", "4 * config.block_out_channels[-1]"),
        ("self.conv_out(F.silu(self.conv_norm_out(h)))", "self.conv_out(self.conv_norm_out(h))"),
    ],
)  # fmt: skip
def test_a_slip_in_its_classes_is_noticed(change):
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        compared(built(change))


def printed(name: str) -> str:
    (cell,) = [cell for cell in cells() if cell["id"] == name]
    return "".join("".join(out.get("text", "")) for out in cell["outputs"])


def test_it_counts_the_published_systems():
    rows = dict(re.findall(r"^([a-z -]+?)  +(\d.*)$", printed("real"), flags=re.M))
    columns = {
        kind: [int(n.replace(",", "")) for n in re.findall(r"[\d,]+", row)]
        for kind, row in rows.items()
    }
    assert columns["all"] == [859_520_964, 865_910_724, 2_567_463_684]
    assert columns["cross-attention"] == [43_962_560, 50_352_320, 545_670_400]
    assert columns["time"][0] - columns["time"][1] == 0
    kinds = [column for kind, column in columns.items() if kind not in ("all", "as published")]
    assert [sum(numbers) for numbers in zip(*kinds, strict=True)] == columns["all"]
    # All that version 2 has more than version 1 is in the cross-attention, as the text says.
    more = columns["all"][1] - columns["all"][0]
    assert more == columns["cross-attention"][1] - columns["cross-attention"][0]


def test_it_knows_where_the_transformers_are():
    text = printed("real-levels")
    assert [float(n) for n in re.findall(r"([\d.]+) billion", text)] == [401.6, 1074.6, 3380.6]
    assert re.findall(r"(\d+) skips", text) == ["12", "12", "9"]
    sd15, xl = text.split("sd2.1")[0], text.split("sdxl")[1]
    assert sd15.count("down 2 ResBlocks, 2 transformers; up 3 ResBlocks, 3 transformers") == 3
    assert "level 4, 1280 channels: down 2 ResBlocks, 0 transformers; up 3 ResBlocks" in sd15
    assert "middle: 2 ResBlocks, 1 transformer, 1 deep" in sd15
    assert "level 1,  320 channels: down 2 ResBlocks, 0 transformers" in xl
    assert ("each 2 deep" in xl, "each 10 deep" in xl, "level 4" in xl) == (True, True, False)
    assert "8 × 40, 8 × 80, 8 × 160, 8 × 160" in sd15
    assert "5 × 64, 10 × 64, 20 × 64" in xl


def test_the_twelve_skips_of_stable_diffusion_are_listed():
    rows = printed("skips-sd").splitlines()[1:]
    assert len(rows) == 12
    assert rows[0].split() == ["1", "conv_in", "320", "up_blocks.3.resnets.2", "640"]
    assert rows[-1].split() == [
        "12",
        "down_blocks.3.resnets.1",
        "1280",
        "up_blocks.0.resnets.0",
        "2560",
    ]


def test_its_configuration_is_the_storybook_model_s():
    assert str(STORYBOOK.unet.block_out_channels) in printed("config")


# ------------------------------------------- what the text says about measurements holds in them


def table(name: str, row: str) -> dict[str, list[float]]:
    """The rows of a printed table that match: a name, and the numbers in it."""
    found = re.findall(row, printed(name), flags=re.M)
    assert found, f"nothing like {row} is printed by {name}"
    return {label: [float(n.rstrip("%")) for n in numbers] for label, *numbers in found}


def test_the_earlier_a_skip_the_more_is_lost_with_it():
    lost = table("cut-trained", r"^(no skips?(?: \d)?) .* by +([\d.]+%)$")
    one, two, three, four = (lost[f"no skip {k}"][0] for k in (1, 2, 3, 4))
    assert one > 100 > two > three > four
    assert four < 5
    assert lost["no skips"][0] > 100


def test_the_smallest_map_carries_sky_and_ground_and_comes_two_ways():
    rows = table(
        "cut-bottom", r"^(\w[\w ]*?) +the answer .* by +([\d.]+%), the sky by +([\d.]+) of"
    )
    assert list(rows) == ["whole", "no skip 2", "no skip 4", "no middle", "neither"]
    assert rows["whole"] == [0, 0]
    for name in ("no skip 4", "no middle"):
        assert rows["neither"][0] > 5 * rows[name][0]
    for name in ("no skip 2", "no skip 4", "no middle"):
        assert rows["neither"][1] > 10 * rows[name][1]
    assert rows["no skip 2"][0] > 5 * rows["no skip 4"][0]


def test_without_skips_a_page_is_found_and_no_noise_and_no_colours():
    off = {name: error for name, (error,) in table("cut-pictures", r"^(.*?) +([\d.]+)$").items()}
    assert off["with skips"] < off["no skips, page"] < 0.7 * off["mean page"]
    assert abs(off["without skips"] / off["with noise"] - 1) < 0.02
    seen = re.findall(r"^(.*?) +(lightness|colour) +(-?[\d.]+)$", printed("cut-colours"), re.M)
    parts = {(name, part): float(number) for name, part, number in seen}
    assert len(parts) == 4
    assert parts["no skips, page", "lightness"] > 0.6
    assert abs(parts["no skips, page", "colour"]) < 0.1
    assert parts["with skips", "colour"] > 0.3


def test_the_way_up_knows_early_where_the_things_are():
    scores = table("maps-table", r"^(in|middle|(?:down|up), \w+) +(-?[\d.]+) +(-?[\d.]+)$")
    assert len(scores) == 6
    little, much = zip(*scores.values(), strict=True)
    down_large, down_small, middle, up_small, up_large = much[1:]
    assert all(a > b for a, b in zip(little[1:], much[1:], strict=True))
    assert down_small < down_large + 0.05
    assert min(up_small, up_large) > 1.5 * max(down_large, down_small, middle)
    assert up_large == max(much)
    assert much[0] < 0.2


def test_the_middle_is_cheap_and_the_tour_is_answered():
    text = printed("cut-price")
    assert re.findall(r"([\d.]+)%", text) == ["11.3", "1.5"]
    assert re.findall(r":\s+([\d,]+)$", text, re.M) == [
        "16,777,216",
        "1,048,576",
        "65,536",
        "4,096",
    ]
    most, work, xl, first, last = printed("widget-answers").splitlines()
    wide = [f"up_blocks.0.resnets.{k}" for k in range(3)]
    wide += [f"up_blocks.1.resnets.{k}" for k in range(2)]
    assert re.findall(r"up_blocks\.\d\.resnets\.\d", most) == wide
    assert "down_blocks.0.attentions.0" in work
    assert "[32, 64] positions a side, 76.0%" in xl
    assert "(2560, 8, 8) become (1280, 8, 8)" in first
    assert "(640, 64, 64) become (320, 64, 64)" in last
