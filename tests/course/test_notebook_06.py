"""The classes of notebook 06, taken out of it, are the finished ones, and a slip is noticed; what
its tables say about the published systems is true."""

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
from torch import Tensor, nn

import sdlearn
from sdlearn import unet as finished
from sdlearn.attention import SpatialTransformer
from sdlearn.course import check, solution
from sdlearn.course.figures import unet as drawing
from sdlearn.embeddings import TimeEmbedding, sinusoidal_embedding

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
FUNCTIONS = ("time_dim",)
WRITTEN = {"06.1": "ResBlock", "06.2": "up_widths", "06.3": "upsampling_level"}
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
        "Tensor": Tensor,
        "SpatialTransformer": SpatialTransformer,
        "TimeEmbedding": TimeEmbedding,
        "sinusoidal_embedding": sinusoidal_embedding,
    }
    replaced = change == ("", "")
    # The learner writes these; the notebook goes on with the solution.
    for number in WRITTEN:
        text = ast.unparse(ast.parse(solution(number).text))
        replaced = replaced or change[0] in text
        exec(text.replace(*change), names)
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
        widths, layers = spec.unet.block_out_channels, spec.unet.layers_per_block
        with torch.device("meta"):
            blocks = [b for level in finished.UNet(spec.unet).up_blocks for b in level.resnets]
        assert names["up_widths"](widths, layers) == [b.conv1.in_channels for b in blocks]


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
        ("return self.conv_shortcut(x) + h", "return h"),
        ("stride=2, padding=1", "stride=2, padding=0"),
        ("mode='nearest'", "mode='bilinear'"),
        ("torch.cat([h, skips.pop()], dim=1)", "torch.cat([skips.pop(), h], dim=1)"),
        ("skips.pop()], dim=1", "skips.pop(0)], dim=1"),
        ("result.append(h + skips.pop())", "result.append(h + skips.pop(0))"),
        ("entries[k * (layers + 1):(k + 1) * (layers + 1)]", "entries[:layers + 1]"),
        ("in enumerate(reversed(levels))", "in enumerate(levels)"),
        ("skips = skips[:-len(block.resnets)]", "pass"),
        ("h, result = (widths[-1], [])", "h, result = (widths[0], [])"),
        ("attentions=1", "attentions=int(config.cross_attention[-1])"),
        ("attentions=1", "attentions=2"),
        ("layers if config.cross_attention[i] else 0", "layers"),
        ("len(in_channels) if config.cross_attention[i] else 0", "len(in_channels)"),
        ("skips[-1].shape[-2:]", "[2 * side for side in h.shape[-2:]]"),
        ("skips[-1].shape[-2:]", "h.shape[-2:]"),
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


# ------------------------------------------------------------- what the tables say is in the text


def rows(name: str) -> list[list[str]]:
    """The rows of a table that the notebook stores, without the headings."""
    (cell,) = [cell for cell in cells() if cell["id"] == name]
    (table,) = [
        "".join(out["data"]["text/plain"])
        for out in cell["outputs"]
        if "<table" in "".join(out.get("data", {}).get("text/html", ""))
    ]
    return [re.split(r"  +", line.strip()) for line in table.splitlines()[1:]]


def said(name: str) -> str:
    """The texts that a cell stores: its printed lines, and its figures in words."""
    (cell,) = [cell for cell in cells() if cell["id"] == name]
    texts = (out.get("text", out.get("data", {}).get("text/plain", "")) for out in cell["outputs"])
    return " ".join("".join(text) for text in texts)


def prose() -> str:
    text = " ".join(cell["source"] for cell in cells() if cell["cell_type"] == "markdown")
    return " ".join(text.replace("\u00a0", " ").split())


def test_it_counts_the_published_systems():
    columns = {
        kind: [float(n.replace(",", "")) for n in numbers]
        for kind, *numbers in rows("real")
        if not kind.startswith("share of")
    }
    assert columns["all"] == [859.5, 865.9, 2567.5]
    assert columns["cross-attention"] == [44.0, 50.4, 545.7]
    kinds = [column for kind, column in columns.items() if kind != "all"]
    sums = [sum(numbers) for numbers in zip(*kinds, strict=True)]
    assert sums == pytest.approx(columns["all"], abs=0.05 * (len(kinds) + 1))
    # All that version 2 has more than version 1 is in the cross-attention, as the text says.
    counts = []
    for name in ("sd1.5", "sd2.1"):
        with torch.device("meta"):
            sizes = {
                key: parameter.numel()
                for key, parameter in finished.UNet(sdlearn.SPECS[name].unet).named_parameters()
            }
        counts.append((sum(sizes.values()), sum(n for k, n in sizes.items() if "attn2" in k)))
    (all_1, cross_1), (all_2, cross_2) = counts
    assert (all_1, all_2) == (859_520_964, 865_910_724)
    assert all_2 - all_1 == cross_2 - cross_1


def test_it_knows_where_the_transformers_are():
    table = rows("real-levels")
    assert table[3] == ["8 × 8", "none", "8 × 160"]
    assert table[4] == ["sd2.1, 768 pixels", "96 × 96", "1", "5 × 64"]
    assert [row[-2] for row in table[8:]] == ["none", "2", "10"]
    millions = {kind: numbers[-1].replace(",", "") for kind, *numbers in rows("real")}
    transformers = ("self-attention", "cross-attention", "MLPs")
    in_transformers = sum(float(millions[kind]) for kind in transformers)
    assert in_transformers > 0.8 * float(millions["all"])
    shares = rows("real")[-1]
    assert (shares[1], shares[3]) == ("60 %", "12 %")
    assert "have 60 % of SD 1.5's parameters but only 12 % of SDXL's" in prose()


def test_it_names_tensors_as_both_files_do():
    table = dict(rows("key-table"))
    known = finished.UNet(CONFIG).state_dict()
    for ours, theirs in table.items():
        assert ours in known or ours.startswith("down_blocks.1.attentions.0")
        assert theirs.split(".")[0] in ("input_blocks", "middle_block", "output_blocks")
    (pair,) = [item for item in table.items() if "attentions" in item[0]]
    assert pair[0].startswith("down_blocks.1.attentions.0.")
    assert pair[1].startswith("input_blocks.4.1.")
    assert "`down_blocks.1.attentions.0` is `input_blocks.4.1`" in prose()


def test_the_macs_with_and_without_the_products_of_attention():
    assert "one forward pass: 401.6 GMACs, 803.3 GFLOPs" in said("cost-figure")
    assert "(QKᵀ, weights · V): 63.0 GMACs" in said("cost-figure")
    with torch.device("meta"):
        unet = finished.UNet(sdlearn.SPECS["sd1.5"].unet)
    sums = drawing.by_resolution(drawing.trace(unet, 64, 64))
    parameters, macs = zip(*sums.values(), strict=True)
    assert round(100 * sum(parameters[2:]) / sum(parameters)) == 83
    assert round(100 * sum(macs[:2]) / sum(macs)) == 71
    assert round(100 * parameters[2] / sum(parameters), 1) == 45.2
    assert round(100 * macs[0] / sum(macs), 1) == 41.8
    assert max(parameters) == parameters[2]
    assert max(macs) == macs[0]
    assert "at 16 × 16 (45.2 %), and the most computation is at 64 × 64 (41.8 %)" in prose()


def test_the_memory_of_activations_is_counted_once():
    """On a network small enough to run, against the tensors that autograd keeps on the CPU."""
    torch.manual_seed(0)
    kept = drawing.activation_bytes(finished.UNet(CONFIG), 8, 6, tokens=7)
    with torch.device("meta"):
        unet = finished.UNet(CONFIG)
    assert drawing.activation_bytes(unet, 16, 12, 7)["other activations"] > 3 * sum(kept.values())
    memory = dict(rows("memory-table"))
    assert memory["activations"] == "4.8 GB"
    assert float(memory["together"].removesuffix(" GB")) > 18
    assert "Activations account for 4.8 GB" in prose()


def test_the_earlier_a_skip_the_more_is_lost_with_it():
    lost = {name: float(value.rstrip("%")) for name, value in rows("cut-trained-figure")}
    one, two, three, four = (lost[f"skip {k} cut"] for k in (1, 2, 3, 4))
    assert one > 100 > two > three > four
    assert four < 5
    assert lost["all four cut"] > 100


def test_the_smallest_map_carries_sky_and_ground_and_has_two_paths():
    table = rows("bottom-table")
    changed = {name: [float(n.rstrip("%")) for n in numbers] for name, *numbers in table}
    four, middle, both = changed.values()
    assert list(changed)[-1] == "skip 4 and middle cut"
    for one in (four, middle):
        assert both[0] > 5 * one[0]
        assert both[1] > 10 * one[1]
        assert both[2] > 10 * one[2]
    assert f"cutting one changes the prediction by {four[0]:.0f} %" in prose()
    assert f"cutting both by {both[0]:.0f} %" in prose()
    assert f"sky changes by {both[1]:.0f} of 255 and the ground by {both[2]:.0f}." in prose()


def test_the_wrong_timestep_costs_most_far_from_the_true_one():
    table = {name: [float(n) for n in numbers] for name, *numbers in rows("lie-figure")}
    low, _, high = table.values()
    assert list(table) == [f"latents noised to t = {t}" for t in (180, 450, 810)]
    assert low[1] == min(low)
    assert low[2] == max(low)
    assert high[0] > 1.5
    assert f"the error is {high[1]:.2f} given $t = 810$ and {high[0]:.2f} given $t = 0$" in prose()
    assert f"costs the most (errors up to {low[2]:.2f})." in prose()


def test_a_convolution_with_a_quarter_of_the_macs_takes_most_of_the_time():
    wide, deep = (
        [float(n.removesuffix(" ms")) for n in numbers] for _, *numbers in rows("time-cost-table")
    )
    assert deep[0] == pytest.approx(wide[0] / 4, abs=0.1)
    assert deep[1] > 0.35 * wide[1]
    assert "takes far more than a quarter of its time" in prose()


def test_without_skips_an_image_is_found_and_no_noise():
    off = {name: int(error) for name, error in rows("cut-images-table")}
    mean = off["mean of the training images"]
    assert off["with skips"] < off["no skips → image"] < 0.7 * mean
    assert off["noisy"] == off["no skips → noise"]
    assert f"({off['noisy']} of 255)" in prose()
    assert f"it finds light and dark areas ({off['no skips → image']}), but no colours" in prose()


def test_only_pre_activation_leaves_the_gradient_as_it_was():
    table = {name: [float(n) for n in numbers] for name, *numbers in rows("residual-table")}
    plain, post, pre = table["18 layers: similarity of the gradients"]
    assert pre > 0.4 > 0.2 > post
    assert abs(plain) < 0.05
    assert f"(cosine similarity {pre:.2f}, against {post:.2f} and {plain:.2f})" in prose()
    _, post, pre = table["18 layers: error"]
    assert f"post-activation hardly helps ({post:.2f})" in prose()
    assert f"its mean squared error falls to {pre:.2f}" in prose()


def test_with_much_noise_the_objects_are_where_the_caption_says():
    (first,) = re.findall(r"all 64 images: ([\d.]+)", said("probe-first"))
    assert f"a correlation of {first} with the truth" in prose()
    lines = re.findall(
        r"[:;] (t = [^:]*): ([-\d., ]+\d)", said("probe-figure").split("the last")[0]
    )
    table = {name: [float(n) for n in numbers.split(", ")] for name, numbers in lines}
    little, little_alone, much, much_alone = table.values()
    assert min(little[1:]) > 0.75
    assert max(abs(a - b) for a, b in zip(little, little_alone, strict=True)) < 0.05
    conv_in, down_large, down_small, middle, up_small, up_large = much
    assert conv_in < 0.2
    assert up_small > 1.3 * max(down_large, down_small, middle)
    assert up_large > 1.8 * max(down_large, down_small, middle)
    assert up_large == max(much)
    assert max(much_alone) < 0.5 * up_large
    assert f"the last block reaches {up_large:.2f}" in prose()
    assert f"Without a caption, {much_alone[-1]:.2f} remains" in prose()
    with_caption, without = re.findall(r"caption: (\d+ %)", said("probe-scene"))
    assert f"only {with_caption} of the predicted coverage lies below the line" in prose()
    assert f"Without it, {without} does." in prose()


def test_free_u_acts_through_the_top_level():
    table = {name: [float(n) for n in numbers] for name, *numbers in rows("freeu-figure")}
    everywhere, below = table["all levels"], table["all but the top level"]
    assert everywhere[0] == below[0] == 0
    assert max(below) < 0.2 * min(everywhere[2:])
    assert f"by at most {max(below)} of 255." in prose()


def test_what_norms_keep_of_a_neighbour_and_of_the_timestep():
    changed = dict(rows("batch-table"))
    assert changed["GroupNorm"] == "0 %"
    assert f"depends on its neighbours**: it changes by {changed['BatchNorm2d']}." in prose()
    left = {name: float(value.rstrip("%")) for name, value in rows("time-norm-table")}
    assert next(iter(left)) == "no norm"
    assert left["16 groups of 1"] == 0 < left["8 groups of 2"] < left["1 group of 16"]
    assert 0.8 * left["no norm"] < left["1 group of 16"] < left["no norm"]
    assert f"the output still changes by {left['8 groups of 2']:.0f} %" in prose()


def test_a_bottom_that_is_kept_for_some_steps_changes_little():
    found = {name: (float(moved), share) for name, moved, share in rows("cached-figure")}
    moved = [change for change, _ in found.values()]
    assert moved == sorted(moved)
    assert found["every 2nd"][0] < 0.2 * found["first only"][0]
    assert f"pixels change by only {found['every 2nd'][0]} of 255" in prose()
    every_fifth, share = found["every 5th"]
    assert f"If only every fifth, the change is {every_fifth}, visible" in prose()
    assert f"Stable Diffusion 1.5 would need {share} of its MACs" in prose()
