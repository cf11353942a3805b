"""Notebook 14: the learner's parts are the finished ones, and a slip in them is noticed."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import sdlearn
from sdlearn.controlnet import guess_mode_scales
from sdlearn.course import check
from sdlearn.course.figures import controlnet as drawn
from sdlearn.course.grading.compare import Different
from sdlearn.course.widgets import ControlWidget
from sdlearn.storybook import HINTS, KINDS
from sdlearn.unet import UNet, UNetConfig
from sdlearn.utils.resources import data_folder
from tests.notebook_parts import folded_assertions, learnt

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "14-controlnet.ipynb"
NUMBERS = ("14.1", "14.2", "14.3", "14.4", "14.5")
CONFIG = UNetConfig(
    block_out_channels=(8, 12), cross_attention=(True, False), num_heads=(2, 2),
    transformer_depth=(1, 1), cross_attention_dim=6, norm_num_groups=2, layers_per_block=1,
)  # fmt: skip
HINT_CHANNELS = (3, 4, 5)


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The learner's five answers, with a piece of their text replaced."""
    imports = ["import torch", "import torch.nn.functional as F", "from torch import Tensor, nn"]
    imports += ["from itertools import pairwise", "import numpy as np"]
    imports += ["from PIL import Image, ImageDraw"]
    imports += ["from sdlearn.controlnet import zero_init"]
    imports += ["from sdlearn.unet import UNetConfig, UNetEncoder, skip_widths"]
    return learnt(NOTEBOOK, NUMBERS, imports, change=change)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs():
    hint = torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(1)).double()
    return normal(2, 4, 3, 5), torch.tensor([10, 800]), normal(2, 7, 6), hint


def compared(names: dict) -> None:
    mine = names["ControlNet"](CONFIG, HINT_CHANNELS)
    check.same(mine, sdlearn.ControlNet(CONFIG, HINT_CHANNELS), *inputs(), 0.7)
    assert all(not p.any() for p in mine.controlnet_cond_embedding.conv_out.parameters())
    # Guess mode: the library's weights for the conditional half, nothing for the other.
    residuals = [normal(4, 3, 2, 2, seed=k) for k in range(5)]
    for k, (made, scale) in enumerate(
        zip(names["guess_mode"](residuals, 0.5), guess_mode_scales(5), strict=True)
    ):
        assert not made[:2].any()
        assert torch.allclose(made[2:], 0.5 * scale * residuals[k][2:])
    x, weight, delta = normal(2, 3, 4, 5), normal(6, 3), normal(2, 6, 4, 5)
    x.requires_grad_(), weight.requires_grad_()
    y = torch.nn.functional.conv2d(x, weight[:, :, None, None], normal(6).requires_grad_())
    to_weight, to_x = torch.autograd.grad(y, (weight, x), delta)
    made = names["conv_gradients"](x.detach(), weight.detach(), delta)
    assert torch.allclose(made[0], to_weight)
    assert torch.allclose(made[1], delta.sum(dim=(0, 2, 3)))
    assert torch.allclose(made[2], to_x)
    hint = names["drawn_hint"]([[(0.25, 16.5 / 32), (0.75, 16.5 / 32)]], 32)
    assert hint.shape == (1, 3, 32, 32)
    assert 0.7 < hint.max() < 0.8
    assert not hint[..., :12, :].any()
    assert 15 < hint[0, 0].sum() < 18


def test_its_parts_are_the_finished_ones():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(built())
    assert said.getvalue().count("same: ") == 1


@pytest.mark.parametrize(
    "change",
    [
        ('"bdhw,bchw->dc", delta, x', '"bdhw,bchw->dc", delta.abs(), x'),
        ("delta.sum(dim=(0, 2, 3))", "delta.mean(dim=(0, 2, 3))"),
        ('"dc,bdhw->bchw", weight', '"dc,bdhw->bchw", weight.abs()'),
        ("F.silu(self.conv_in(hint_image))", "self.conv_in(hint_image)"),
        ("h = F.silu(conv(h))", "h = conv(h)"),
        ("zero_init(nn.Conv2d(channels[-1], width, 3, padding=1))",
         "nn.Conv2d(channels[-1], width, 3, padding=1)"),
        ("self.conv_in(z) + self", "self.conv_in(z) - self"),
        ("self.embed(z, t, None)", "self.embed(z, 0 * t, None)"),
        ("[scale * conv(skip) for", "[conv(skip) for"),
        ("scale * self.controlnet_mid_block(mid)", "scale * self.controlnet_mid_block(skips[-1])"),
        ("0.825 ** (n - 1 - k)", "0.825 ** (n - k)"),
        ("torch.zeros_like(uncond)", "uncond"),
        ("fill=255, width=4", "fill=200, width=4"),
        ("image.reduce(4)", "image.crop((0, 0, size, size))"),
    ],
)  # fmt: skip
def test_a_slip_in_its_parts_is_noticed(change):
    with pytest.raises((Different, AssertionError, IndexError, RuntimeError)):
        compared(built(change))


def test_an_untrained_copy_changes_nothing():
    torch.manual_seed(0)
    unet = UNet(CONFIG).double()
    mine = built()["ControlNet"](CONFIG, HINT_CHANNELS).double()
    copied = {k: v for k, v in unet.state_dict().items() if k in mine.state_dict()}
    mine.load_state_dict(mine.state_dict() | copied)
    z, t, context, hint = inputs()
    residuals = mine(z, t, context, hint)
    assert torch.equal(unet(z, t, context), unet(z, t, context, None, residuals))


def test_its_claims_are_asserted():
    assert folded_assertions(NOTEBOOK) >= 10


def test_the_recorded_run_is_complete():
    run = json.loads((data_folder("storybook-controlnet") / "convergence.json").read_text("utf-8"))
    for name in ("kept", "default"):
        steps, overlaps = run[name]["steps"], run[name]["iou"]
        assert steps[0] == 0
        assert steps == sorted(set(steps))
        assert len(overlaps) == len(steps)
        assert overlaps[0] == run["iou_alone"] < max(overlaps) < run["iou_true"]
    for name in ("loss", "loss_wrong"):
        assert len(run["kept"][name]) == len(run["kept"]["steps"])
    assert {*run["images"]} <= {*run["kept"]["steps"]}
    with Image.open(data_folder("storybook-controlnet") / "convergence.png") as strip:
        assert strip.size == (64 * (1 + len(run["images"])), 64 * 3)


def test_its_figures_say_what_they_show():
    figure = drawn.controlnet_diagram((16, 8))
    names = [text.get_text() for text in figure.figure.axes[0].texts]
    assert names.count("zero conv") == 6
    assert names.count("16 × 16 layers") == 3
    assert "five more zero convolutions" in figure.words

    figure = drawn.convergence({"a": ([0, 10], [0.1, 0.5])}, {"true": 0.9}, "Title", "IoU")
    assert figure.words == "IoU against the training step. a: 0.1 at 0, 0.5 at 10. true: 0.9."

    figure = drawn.against_scale([0, 1], {"IoU": [0.25, 0.75], "right": [1.0, 1.0]}, 0.9)
    assert "IoU: 0.25, 0.75; right: 1.00, 1.00" in figure.words
    assert "0.90" in figure.words


def test_names_of_lines_that_end_together_do_not_overlap():
    lines = {name: ([0, 10], [0.1, 0.8]) for name in "ab"}
    figure = drawn.convergence(lines, {}, "Title", "IoU")
    low, high = sorted(text.xy[1] for text in figure.figure.axes[0].texts)
    assert high - low > 0.04


def test_the_widget_over_all_its_controls(tiny_storybook):
    torch.manual_seed(0)
    stage = ControlWidget(
        tiny_storybook, sdlearn.ControlNet.from_unet(tiny_storybook.unet), steps=2
    )
    for kind in KINDS:
        stage.kind.value = kind
        assert kind in stage.message.value
    for name in HINTS:
        stage.kind_of_hint.value = name
        assert stage.hint.size == (64, 64)
    for control in (stage.x, stage.y, stage.size, stage.scale):
        for value in (control.min, control.max):
            control.value = value
            assert 0 <= stage.overlap <= 1
    assert stage.alt.startswith("A hint and the image that it controls.")
