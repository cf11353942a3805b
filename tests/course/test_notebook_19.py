"""Notebook 19: the learner's parts are the finished ones, and a slip in them is noticed."""

import contextlib
import io
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, FancyArrowPatch

import sdlearn
from sdlearn import flow
from sdlearn.course import check
from sdlearn.course.figures import flow as drawn
from sdlearn.course.figures.style import PURPLE
from sdlearn.course.grading.compare import Different
from sdlearn.course.widgets import FlowWidget
from sdlearn.diffusion_transformer import JointAttention, JointBlock, modulate
from sdlearn.schedule import NoiseSchedule
from tests.notebook_parts import folded_assertions, learnt

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "19-after-stable-diffusion.ipynb"
NUMBERS = tuple(f"19.{k}" for k in range(1, 8))
CONFIG = sdlearn.DiffusionTransformerConfig(num_heads=2, head_dim=4)


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The learner's seven answers, with a piece of their text replaced."""
    imports = ["import torch", "import torch.nn.functional as F", "from torch import Tensor, nn"]
    imports += ["from collections.abc import Callable", "from itertools import pairwise"]
    return learnt(NOTEBOOK, NUMBERS, imports, change=change)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def toy(x, t):
    t = torch.as_tensor(t, dtype=x.dtype)
    return torch.tanh(x + (t if t.ndim == 0 else t.view(-1, 1, 1, 1)) / 500)


def compared(names: dict) -> None:
    x_0, eps = normal(3, 4, 2, 5), normal(3, 4, 2, 5, seed=1)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    text = sdlearn.text.Conditioning(normal(3, 2, 2), normal(3, 2))
    expected = flow.transformer_loss(lambda x, t, *_: toy(x, t / 1000), x_0, t, eps, text)
    assert torch.allclose(names["rectified_flow_loss"](toy, x_0, eps, t), expected)
    times = flow.path(5, 0.9, shift=2.0)
    *_, last = flow.euler(toy, eps, times)
    assert torch.allclose(names["flow_euler"](toy, eps, times), last.x)
    schedule = NoiseSchedule()
    for each in (0.05, 0.6, 0.9):
        (point,) = flow.points_at([each], schedule)
        timestep = torch.full((3,), point.t)
        expected = flow.velocity_model(toy, schedule)(x_0, each)
        assert torch.allclose(names["velocity_of_noise"](toy, x_0, each, timestep), expected)
    # A line between two points of one of the flow's lines is a piece of it.
    start, end = flow.interpolate(x_0, eps, t), flow.interpolate(x_0, eps, t / 3)
    share = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    x, when, velocity = names["line_points"](start, end, t, t / 3, share)
    assert torch.allclose(when, t - share * t * 2 / 3)
    assert torch.allclose(x, flow.interpolate(x_0, eps, when))
    assert torch.allclose(velocity, eps - x_0)
    compare_parts(names)
    moved = names["shift_time"](t, 3.0)
    assert torch.allclose(moved / (1 - moved), 3 * t / (1 - t))
    assert names["shift_time"](torch.ones(1, dtype=torch.float64), 6.0) == 1


def compare_parts(names: dict) -> None:
    torch.manual_seed(0)
    check.same(
        names["JointAttention"](8, 2), JointAttention(CONFIG, False), normal(2, 5, 8),
        normal(2, 3, 8),
    )  # fmt: skip
    block = JointBlock(CONFIG, False).double()
    mine = names["AdaLNZeroMLP"](8).double()
    tokens, emb = normal(2, 5, 8), normal(2, 8, seed=1)
    assert torch.equal(mine(tokens, emb), tokens)
    with torch.no_grad():
        block.norm1.linear.weight.normal_()
        mine.linear.weight.copy_(block.norm1.linear.weight[24:])
    mine.ff[0].load_state_dict(block.ff.net[0].proj.state_dict())
    mine.ff[2].load_state_dict(block.ff.net[2].state_dict())
    *_, shift, scale, gate = block.norm1(emb)
    expected = tokens + gate * block.ff(modulate(tokens, shift, scale))
    assert torch.allclose(mine(tokens, emb), expected)


def test_its_parts_are_the_finished_ones():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(built())
    assert said.getvalue().count("same: ") == 1


@pytest.mark.parametrize(
    "change",
    [
        ("(1 - times) * x_0 + times * eps", "times * x_0 + (1 - times) * eps"),
        ("- (eps - x_0)", "- (x_0 - eps)"),
        ("x + (s - t) * velocity(x, t)", "x + (s - t) * velocity(x, s)"),
        ("network(x / r, timestep)", "network(x, timestep)"),
        ("return (eps - x) / (1 - t)", "return eps - x"),
        ("t = t_first + s * (t_last", "t = t_first - s * (t_last"),
        ("velocity = (last - first) / (t_last - t_first)", "velocity = (last - first) / (t_last)"),
        ("* (1 + scale) + shift", "* scale + shift"),
        ("x + gate * self.ff(h)", "x + self.ff(h)"),
        ("shift, scale, gate = ", "scale, shift, gate = "),
        ("q = torch.cat([q, c_q], dim=2)", "q = torch.cat([q, c_k], dim=2)"),
        ("v = torch.cat([v, c_v], dim=2)", "v = torch.cat([c_v, v], dim=2)"),
        ("self.to_add_out(text)", "self.to_out[0](text)"),
        ("shift * t / (1 + (shift - 1) * t)", "shift * t / (1 + shift * t)"),
    ],
)
def test_a_slip_in_its_parts_is_noticed(change):
    with pytest.raises((Different, AssertionError, RuntimeError)):
        compared(built(change))


def test_its_claims_are_asserted():
    assert folded_assertions(NOTEBOOK) >= 12


def test_its_figures_say_what_they_show():
    data, eps = normal(40, 2), normal(3, 2, seed=1)
    figure = drawn.two_paths(data, data[:3], eps)
    assert "3 pairs" in figure.words
    assert len(figure.figure.axes) == 2
    straight = figure.figure.axes[1].lines[1].get_xydata()
    assert abs(straight[0] - data[0].numpy()).max() < 1e-12
    assert abs(straight[-1] - eps[0].numpy()).max() < 1e-12

    figure = drawn.step_times({"a": [0.9, 0.5, 0.0], "b": [1.0, 0.0]}, "Title")
    assert figure.words.endswith("a: 0.90, 0.50, 0.00; b: 1.00, 0.00.")

    runs = {"one": [data, data / 2], "two": [data, data / 2, data / 3]}
    figure = drawn.flow_with_steps(data, runs, "Title", "What it shows.")
    assert figure.words == "What it shows."
    assert [ax.get_title(loc="left") for ax in figure.figure.axes] == ["one", "two"]
    (key,) = figure.figure.legends
    assert [text.get_text() for text in key.texts] == [
        "dataset", "12 trajectories, a dot for each step", "40 end points",
    ]  # fmt: skip
    sizes = [ax.lines[-1].get_markersize() for ax in figure.figure.axes]
    assert sizes == [2, 2]
    runs["one"] = [data, 0 * data]
    figure = drawn.flow_with_steps(data, runs, "Title", "What it shows.")
    assert figure.figure.axes[0].lines[-1].get_markersize() == 7  # all ends are one point

    steps = [data / k for k in range(1, 42)]
    figure = drawn.flow_with_steps(
        data, {"forty": steps, "one": steps[:2]}, "Title", "What it shows."
    )
    panel = figure.figure.axes[0]
    assert panel.get_title(loc="left") == "forty, every 4th dotted"
    assert panel.lines[1].get_marker() == "o"
    assert panel.lines[1].get_markevery() == 4

    figure = drawn.joint_block()
    patches = figure.figure.axes[0].patches
    signs = {patch.center[1] for patch in patches if isinstance(patch, Circle)}
    assert signs == {drawn.GATE_1, drawn.SUM_1, drawn.GATE_2, drawn.SUM_2}
    arrows = [p for p in patches if isinstance(p, FancyArrowPatch)]
    conditioned = [p for p in arrows if to_hex(p.get_edgecolor()) == PURPLE]
    heights = {p._posA_posB[1][1] for p in conditioned}
    assert heights == {drawn.NORM_1, drawn.GATE_1, drawn.NORM_2, drawn.GATE_2}
    names = [text.get_text() for text in figure.figure.axes[0].texts]
    assert names.count("modulated norm") == 4
    assert names.count("gate") == 2
    assert names.count("attention over all tokens") == 1


def test_the_widget_over_all_its_controls(tiny_storybook):
    stage = FlowWidget({"a": tiny_storybook, "b": tiny_storybook})
    for name in ("b", "a"):
        stage.model.value = name
        assert stage.message.value.count(f"{name.upper()}, 8 calls of the U-Net (two a step") == 1
    for control in (stage.steps, stage.shift, stage.guidance):
        for value in (control.min, control.max):
            control.value = value
            assert len(stage.images) == min(stage.steps.value, 6)
            assert len(stage.times) == stage.steps.value + 1
    stage.guidance.value, stage.steps.value = 1, 3
    assert stage.calls == 3
    assert "two a step" not in stage.message.value
    assert stage.alt.startswith("The estimates along the way and the final image.")
