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
from sdlearn.storybook import render, sample_scene

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
        if not kind.startswith(("share of", "GMACs"))
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
    assert rows("real")[-1][1:] == ["401.6", "1,074.6", "3,380.6"]
    assert table[3][:3] == ["8 × 8", "1280", "none"]
    assert table[4] == ["sd2.1, 768 pixels", "96 × 96", "320", "1", "5 × 64"]
    assert [row[3] for row in table[8:9]] == ["none"]
    assert [row[2] for row in table[9:]] == ["2", "10"]


def test_it_names_tensors_as_both_files_do():
    table = {ours: theirs for ours, theirs, _ in rows("key-table")}
    known = finished.UNet(CONFIG).state_dict()
    for ours, theirs in table.items():
        assert ours in known or ours.startswith("down_blocks.1.attentions.0")
        assert theirs.split(".")[0] in ("input_blocks", "middle_block", "output_blocks")
    (pair,) = [item for item in table.items() if "attentions" in item[0]]
    assert pair[0].startswith("down_blocks.1.attentions.0.")
    assert pair[1].startswith("input_blocks.4.1.")
    assert "`down_blocks.1.attentions.0` is `input_blocks.4.1`" in prose()


def test_the_macs_with_and_without_the_products_of_attention():
    counted = {name: numbers for name, *numbers in rows("cost-figure")}
    assert counted["together"] == ["401.6", "803.3"]
    assert counted["convolutions and linear layers"][0] == "338.6"
    assert "401.6 GMACs, or 803.3 GFLOPs" in prose()
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
    assert "8 × 8 and 16 × 16: 82.7 % of the parameters, 29 % of the MACs" in said("cost-figure")


def test_the_memory_of_activations_is_counted_once():
    """On a network small enough to run, against the tensors that autograd keeps on the CPU."""
    torch.manual_seed(0)
    kept = drawing.activation_bytes(finished.UNet(CONFIG), 8, 6, tokens=7)
    with torch.device("meta"):
        unet = finished.UNet(CONFIG)
    assert drawing.activation_bytes(unet, 16, 12, 7)["other activations"] > 3 * sum(kept.values())
    memory = dict(rows("memory-table"))
    assert (memory["attention weights"], memory["other activations"]) == ("2.9 GB", "1.9 GB")
    assert "Activations account for 4.8 GB" in prose()


def test_the_earlier_a_skip_the_more_is_lost_with_it():
    lost = {name: float(value.rstrip("%")) for name, value in rows("cut-trained-figure")}
    one, two, three, four = (lost[f"skip {k} cut"] for k in (1, 2, 3, 4))
    assert one > 100 > two > three > four
    assert four < 5
    assert lost["all four cut"] > 100


def test_the_smallest_map_carries_sky_and_ground_and_has_two_paths():
    lost = {name: [float(n.rstrip("%")) for n in numbers] for name, *numbers in rows("bottom")}
    nothing, two, four, middle, both = lost.values()
    assert list(lost)[-1] == "skip 4 and middle cut"
    assert nothing == [0, 0]
    for one in (two, four, middle):
        assert both[1] > 10 * one[1]
    assert two[0] > 5 * four[0]
    assert f"cutting one changes the prediction by {four[0]:.0f} %" in prose()
    assert f"cutting both by {both[0]:.0f} %" in prose()
    assert f"the sky changes by only {two[1]} of 255" in prose()
    assert f"the sky changes by {both[1]:.0f}: day and night give way to dusk" in prose()


def test_the_wrong_timestep_costs_most_far_from_the_true_one():
    table = {name: [float(n) for n in numbers] for name, *numbers in rows("lie-figure")}
    low, high = table.values()
    assert list(table) == ["latents noised to t = 180", "latents noised to t = 810"]
    assert low[1] == min(low)
    assert low[2] == max(low)
    assert high[0] > 1.5
    assert f"the error is {high[1]:.2f} given $t = 810$, but {high[0]:.2f} given $t = 0$" in prose()
    assert f"costs the most, up to {low[2]:.2f}." in prose()


def test_a_convolution_with_a_quarter_of_the_macs_takes_most_of_the_time():
    wide, deep, attention = (
        [float(n.removesuffix(" ms")) for n in numbers] for _, *numbers in rows("time-cost-table")
    )
    assert deep[0] == pytest.approx(wide[0] / 4, abs=0.1)
    assert deep[1] > 0.5 * wide[1]
    assert wide[2] > attention[2]
    assert "in the run printed here most of it" in prose()


def test_without_skips_an_image_is_found_and_no_noise_and_no_colours():
    found = {name: [float(n) for n in numbers] for name, *numbers in rows("cut-images-table")}
    off = {name: float(n) for name, n in re.findall(r", (\D+): (\d+)", said("cut-images-table"))}
    assert set(off) == {"mean image", "noisy", "no skips → noise"}
    off |= {name: numbers[0] for name, numbers in found.items()}
    assert off["with skips"] < off["no skips → image"] < 0.7 * off["mean image"]
    assert abs(off["no skips → noise"] / off["noisy"] - 1) < 0.03
    assert found["no skips → image"][1] > 0.6
    assert abs(found["no skips → image"][2]) < 0.1
    assert found["with skips"][2] > 0.3
    assert f"it explains {found['no skips → image'][1]:.2f} of the variance in lightness" in prose()
    shares = " and ".join(f"{share:.2f}" for share in found["with skips"][1:])
    assert f"With skips, these shares are {shares}" in prose()
    assert f"({off['noisy']:.0f} of 255)" in prose()
    assert off["noisy"] == off["no skips → noise"]
    assert f"the mean image ({off['mean image']:.0f})" in prose()


def test_only_pre_activation_leaves_the_gradient_as_it_was():
    table = {name: [float(n) for n in numbers] for name, *numbers in rows("residual-table")}
    plain, post, pre = table["18 layers: cosine similarity of the two gradients"]
    assert min(table["18 layers: norm of the gradient, first ÷ last layer"]) > 0.8
    assert pre > 0.4 > 0.2 > post
    assert abs(plain) < 0.05
    assert f"(cosine similarity {pre:.2f}, against {post:.2f} and {plain:.2f})" in prose()
    _, post, pre = table["18 layers: error"]
    assert f"post-activation hardly helps ({post:.2f})" in prose()
    ratio = table["18 layers: norm of the gradient, first ÷ last layer"][1]
    assert f"(post-activation even enlarges it, {ratio:.2f} times)" in prose()
    assert f"18 layers do learn ({pre:.2f})" in prose()


def test_with_much_noise_the_objects_are_where_the_caption_says():
    lines = re.findall(
        r"[:;] (t = [^:]*): ([-\d., ]+\d)", said("probe-figure").split("the last")[0]
    )
    table = {name: [float(n) for n in numbers.split(", ")] for name, numbers in lines}
    little, little_alone, much, much_alone, text_alone = table.values()
    assert min(little[1:]) > 0.75
    assert max(abs(a - b) for a, b in zip(little, little_alone, strict=True)) < 0.05
    conv_in, down_large, down_small, middle, up_small, up_large = much
    assert conv_in < 0.2
    assert up_small > 1.3 * max(down_large, down_small, middle)
    assert up_large > 2 * max(down_large, down_small, middle)
    assert up_large == max(much)
    assert max(much_alone) < 0.5 * up_large
    assert text_alone[-1] > 1.7 * much_alone[-1]
    assert f"up to {up_large:.2f}" in prose()
    assert f"without a caption {much_alone[-1]:.2f} is left" in prose()
    assert f"without an image gives {text_alone[-1]:.2f}" in prose()


def test_free_u_acts_through_the_top_level():
    table = {name: [float(n) for n in numbers] for name, *numbers in rows("freeu-figure")}
    everywhere, below = table["all levels"], table["all but the top level"]
    assert everywhere[0] == below[0] == 0
    assert f"hardly any difference ({everywhere[1]} of 255)" in prose()
    assert max(below) < 0.2 * min(everywhere[2:])
    assert f"by at most {max(below)}." in prose()


def test_what_norms_keep_of_a_neighbour_and_of_the_timestep():
    changed = dict(rows("batch-table"))
    assert changed["GroupNorm"] == "0 %"
    assert f"changes by {changed['BatchNorm2d']} with batch norm" in prose()
    left = {name: float(value.rstrip("%")) for name, value in rows("time-norm-table")}
    assert next(iter(left)) == "no norm"
    assert left["16 groups of 1"] == 0 < left["8 groups of 2"] < left["1 group of 16"]
    assert 0.8 * left["no norm"] < left["1 group of 16"] < left["no norm"]
    assert f"the output changes by {left['8 groups of 2']:.0f} %" in prose()


def run(*names: str) -> dict:
    """What these cells define, with the classes of the notebook."""
    found = {cell["id"]: cell["source"] for cell in cells()}
    names_and_values = built() | {"sdlearn": sdlearn, "render": render}
    names_and_values["sample_scene"] = sample_scene
    for name in names:
        exec(found[name], names_and_values)
    return names_and_values


def test_post_activation_learns_too_but_later():
    error = run("residual")["error_after_training"]
    assert error(18, "post-activation", 0, steps=60) > 0.9
    late = [error(18, "post-activation", seed, steps=240) for seed in range(2)]
    assert 0.7 < sum(late) / 2 < 0.85
    assert "its error fell to about 0.8 (in a separate run)" in prose()
    assert error(18, "pre-activation", 0, steps=240) < 0.3


def test_after_640_steps_a_network_without_skips_has_found_little_noise():
    names = run("setup", "cut-setup")
    sd = sdlearn.StableDiffusion.storybook(device="cpu")
    names |= built() | {"sd": sd, "STEPS": 640}
    found = {cell["id"]: cell["source"] for cell in cells()}
    exec(re.search(r"def noisy.*?return [^\n]*\n", found["lie"], re.S)[0], names)
    exec(found["cut-train"].split("trained, losses")[0], names)
    _, losses = names["train"](names["WithoutSkips"])
    assert 0.85 < sum(losses[-32:]) / 32 < 0.95
    assert "in a separate run with 640 steps, the error was still about 0.9" in prose()


def test_a_bottom_that_is_kept_for_some_steps_changes_little():
    found = {name: (float(moved), share) for name, moved, _, share in rows("cached-figure")}
    moved = [change for change, _ in found.values()]
    assert moved == sorted(moved)
    assert found["every 2nd"][0] < 0.2 * found["first only"][0]
    assert f"pixels change by only {found['every 2nd'][0]} of 255" in prose()
    every_fifth, share = found["every 5th"]
    assert f"With every fifth step it is {every_fifth}:" in prose()
    assert f"Stable Diffusion 1.5 would need {share} of its MACs" in prose()
