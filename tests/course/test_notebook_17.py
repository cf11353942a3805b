"""Notebook 17: what the learner writes is what the library does, and a slip is noticed."""

import contextlib
import io
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

import sdlearn.training
from sdlearn.course import check
from sdlearn.course.figures import scaling, scaling_diagrams
from sdlearn.course.grading.compare import Different
from sdlearn.course.training_budget import gpu_hours, state_memory, training_flops
from sdlearn.course.training_costs import (
    Machine,
    Run,
    activation_bytes,
    alive_bytes,
    memory_of_step,
    unet_cost,
)
from sdlearn.course.widgets import TrainingMemoryWidget
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
from sdlearn.unet import UNet, UNetConfig
from tests.notebook_parts import learnt

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "17-scaling-up.ipynb"


class Objective(nn.Module):
    """A small network with a loss that is a mean over rows."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (self.layers(x) - y).square().mean()


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The learner's functions and the notebook's around them, with a piece of text replaced."""
    imports = ["import random", "import torch", "from torch import Tensor, nn"]
    wanted = ("buffered", "same_noise", "averaged_means")
    return learnt(NOTEBOOK, [f"17.{k}" for k in range(1, 6)], imports, wanted, change)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flat(tensors):
    return torch.cat([x.detach().flatten() for x in tensors])


def stepped(step, batches):
    """The weights of two ranks after some steps, and the last loss and norm."""
    ranks = [Objective(), Objective()]
    optimizers = [torch.optim.AdamW(rank.parameters(), lr=0.05) for rank in ranks]
    for batch in batches:
        loss, norm = step(ranks, optimizers, batch, 0.2)
    return [*(flat(rank.parameters()) for rank in ranks), loss, norm]


def library_steps(batches):
    objective = Objective()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.05)
    for batch in batches:
        loss = objective(*batch)
        norm = sdlearn.training.update(loss, optimizer, 0.05, 0.2)
    return [*[flat(objective.parameters())] * 2, loss.detach(), norm]


def scales(step, series):
    scale, good, found = 256.0, 0, []
    for v in series:
        gradients, scale, good = step([scale * v], scale, good, 1.0, 3)
        found.append(torch.cat([*(gradients or [torch.zeros_like(v)]), v.new_tensor([scale])]))
    return torch.stack(found)


def library_scales(series):
    weights, found = nn.Parameter(torch.zeros_like(series[0])), []
    scaler = GradScaler("cpu", init_scale=256.0, growth_interval=3)
    sgd = torch.optim.SGD([weights], lr=1.0)
    for v in series:
        before = weights.detach().clone()
        sdlearn.training.update((weights * v).sum(), sgd, 1.0, 1.0, scaler)
        scale = v.new_tensor([scaler.get_scale()])
        found.append(torch.cat([before - weights.detach(), scale]))
    return torch.stack(found)


def compared(names: dict) -> None:
    batches = [(normal(6, 3, seed=k), normal(6, 2, seed=9 + k)) for k in range(4)]
    with torch.enable_grad():
        objective = Objective()
        objective(*batches[0]).backward()
        whole = [w.grad.clone() for w in objective.parameters()]
        for size in (1, 4, 5, 6, 8):
            found = names["accumulated_gradients"](objective, batches[0], size)
            assert torch.allclose(flat(found), flat(whole), rtol=0, atol=1e-14), size
        mean = names["averaged_means"](objective, batches[0], 4)
        assert not torch.allclose(flat(mean), flat(whole), rtol=0, atol=1e-3)
    series = 1e5 * normal(10, 4)
    series[5:] *= 1e-6  # too short to be clipped
    series[4, 2], series[7, 0] = math.inf, math.nan

    @torch.enable_grad()
    def mine(*_):
        return stepped(names["data_parallel_step"], batches)

    @torch.enable_grad()
    def theirs(*_):
        return library_steps(batches)

    check.same(mine, theirs, series)
    with torch.enable_grad():
        expected = library_scales(series)
    check.same(lambda x: scales(names["scaled_step"], x), lambda _: expected, series,
               tolerance=1e-10)  # fmt: skip
    for ranks in (2, 3, 5):
        own = normal(ranks, ranks, 2)
        values = own.clone()
        for k in range(2 * (ranks - 1)):
            before = values.clone()
            for rank in range(ranks):
                chunk, to = names["ring_chunks"](rank, ranks)[k], (rank + 1) % ranks
                kept = before[to, chunk] if k < ranks - 1 else 0
                values[to, chunk] = kept + before[rank, chunk]
        assert torch.allclose(values, own.sum(dim=0).expand_as(own), rtol=0, atol=1e-13)
    run, machine = Run(10**9, 1e12, 2e9, 1000, 512), Machine(8, 34.2e9, 3e14, 0.4, 2.0)
    rows, hours, dollars = names["plan"](run, machine, True)
    shared = state_memory(run.parameters, run.parameters, shards=8).total
    assert rows == max(n for n in range(1, 65) if 64 % n == 0 and shared + n * 2e9 <= 34.2e9)
    rate = machine.peak * machine.utilisation / training_flops(run.flops)
    assert hours == pytest.approx(gpu_hours(run.steps * run.batch, rate), rel=1e-12)
    assert dollars == pytest.approx(2 * hours, rel=1e-12)
    order = names["buffered"](300, 10)
    assert sorted(order) == [*range(300)]
    assert max(item - place for place, item in enumerate(order)) == 9
    z_0, t, eps, context = names["same_noise"](*(normal(4, 2, seed=k) for k in range(4)))
    assert torch.equal(t[:2], t[2:])
    assert torch.equal(eps[:2], eps[2:])
    assert not torch.equal(z_0[:2], z_0[2:])
    assert not torch.equal(context[:2], context[2:])


def test_its_parts_are_the_finished_ones():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(built())
    assert said.getvalue().count("same: ") == 2


@pytest.mark.parametrize(
    "change",
    [
        ("objective.zero_grad()\n    n =", "n ="),
        ("loss * len(micro[0]) / n", "loss * size / n"),
        ("scale / 2, 0", "scale / 2, good"),
        ("gradient / scale for", "gradient for"),
        (".clamp(max=1)", ""),
        ("if good + 1 == growth", "if good == growth"),
        ("x.chunk(ranks)[rank]", "x.chunk(ranks)[0]"),
        (".mean(dim=0)\n", ".sum(dim=0)\n"),
        ("parameter.grad = mean.clone()", "pass"),
        ("rank + 1 - k", "rank - k"),
        ("rank - k) % ranks for", "rank + k) % ranks for"),
        ("3 * run.flops", "2 * run.flops"),
        ("20 * run.parameters", "16 * run.parameters"),
        ("if share % n == 0", "if n"),
        ("dice.randrange(size)", "0"),
        ("[x.chunk(2)[0]] * 2", "x.chunk(2)"),
    ],
)
def test_a_slip_in_its_parts_is_noticed(change):
    with pytest.raises((Different, AssertionError, RuntimeError, TypeError, IndexError)):
        compared(built(change))


def test_its_claims_are_asserted():
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    folded = [
        "".join(cell["source"])
        for cell in cells
        if "hide-input" in cell["metadata"].get("tags", [])
    ]
    assert sum("assert " in text for text in folded) >= 15


# ------------------------------------------------------------------------------------------ costs


def test_the_memory_of_a_call_is_what_its_backward_pass_needs():
    x = torch.randn(4, 8, requires_grad=True)
    assert alive_bytes(lambda x: (x.exp().sin() * 2).sum(), x) == 2 * x.nbytes - x.nbytes
    assert alive_bytes(lambda x: (x.exp() * x.sin()).sum(), x) == 2 * x.nbytes


def test_checkpointed_blocks_keep_their_inputs():
    config = UNetConfig(
        block_out_channels=(32, 32), layers_per_block=1, cross_attention=(True, True),
        transformer_depth=(1, 1), num_heads=(2, 2), cross_attention_dim=16, norm_num_groups=8,
        sample_size=4,
    )  # fmt: skip
    unet = UNet(config)
    inputs = torch.randn(2, 4, 4, 4), torch.tensor([3, 700]), torch.randn(2, 7, 16)
    plain = alive_bytes(unet, *inputs)
    checkpoint_activations(unet)
    assert 0 < alive_bytes(unet, *inputs) < plain / 3


def test_what_stable_diffusion_takes():
    assert unet_cost("sd1.5", 512) == (859_520_964, 803_273_441_280)
    assert 1.9e9 < activation_bytes("sd1.5", 512) < 2.0e9
    lean = activation_bytes("sd1.5", 512, checkpointed=True)
    assert lean == pytest.approx(0.3074e9 + 0.1526e9, rel=1e-3)  # inputs, and the largest block
    with pytest.raises(ValueError, match="there is no version 'sd9'; accepted: "):
        unet_cost("sd9", 512)


@pytest.mark.parametrize("shards", [1, 4])
def test_the_memory_of_a_step_is_that_of_the_dry_run(shards):
    run = Run(1_000_000, 1e9, 3e6, 10, 8)
    pieces = memory_of_step(run, 2, shards)
    state = state_memory(run.parameters, run.parameters, shards=shards)
    assert pieces["weights"] == pytest.approx(state.weights / 1e9)
    assert pieces["Adam's moments"] == pytest.approx(state.optimizer / 1e9)
    assert sum(pieces.values()) == pytest.approx((state.total + 6e6) / 1e9)


# ---------------------------------------------------------------------------------------- figures


def test_memory_is_drawn_piece_by_piece():
    rows = {"one": {"weights": 1.0, "activations": 2.5}, "two": {"weights": 0.5}}
    figure = scaling.memory_bars(rows, "Memory", {"a device": 3})
    assert "one: weights 1.00, activations 2.50; two: weights 0.50" in figure.words
    assert "marks a device, 3 GB" in figure.words
    (ax,) = figure.figure.axes
    assert [round(bar.get_width(), 2) for bar in ax.patches][:3] == [1.0, 2.5, 0.5]


def test_formats_are_drawn_bit_by_bit():
    figure = scaling.number_formats({"fp16": (5, 10), "bf16": (8, 7)})
    bits, _ = figure.figure.axes
    assert len(bits.patches) == 32
    assert "fp16: 1 sign bit, 5 exponent bits, 10 fraction bits" in figure.words


def test_gradients_below_half_of_the_smallest_number_are_counted():
    gradient = 2.0 ** torch.tensor([-30.0, -26.0, -24.0, -20.0])
    words = scaling.gradient_sizes(gradient, 2.0**10).words
    assert "50% of the values are below 2^-25" in words
    assert "multiplied by 1,024, 0.0% are" in words


def test_a_scale_s_history_marks_skipped_steps():
    figure = scaling.scale_history([8.0, 4.0, 4.0, 8.0], [True, False, False, True], "Scale")
    assert "2^3, 2^2, 2^2, 2^3. 2 are skipped" in figure.words
    good, bad = figure.figure.axes[0].lines[-2:]
    assert [*good.get_xdata()] == [2, 3]
    assert [*bad.get_xdata()] == [1, 4]


def test_other_charts_say_what_they_show():
    lines = {"64 × 64": {1: 7.0, 2: 14.0}, "128 × 128": {1: 25.0, 2: 50.0}}
    assert "64 × 64: 7 at 1, 14 at 2" in scaling.growth(lines, "Activations", "MB").words
    orders = {"one": [0, 1, 2, 3], "two": [3, 0, 1, 2]}
    assert "one: items come at most 0 positions earlier; two: items come at most 3" in (
        scaling.shuffles(orders).words
    )
    points = [("A", 2022.5, 150_000.0), ("your run", 2024.0, 12.0)]
    assert "A, 2022: 150,000; your run, 2024: 12" in scaling.budgets(points, "T", "hours").words


def test_diagrams_show_as_many_ranks_as_they_say():
    figure = scaling_diagrams.data_parallel(3)
    assert "3 groups of rows" in figure.words
    counts = [torch.ones(2, 2), torch.tensor([[1, 2], [2, 1]]), torch.full((2, 2), 2)]
    assert "from the start on: 0, 2, 4 of 4" in scaling_diagrams.ring_rounds(counts).words
    assert "its 25% of each block's weights" in scaling_diagrams.sharded_step(3, 4).words


# ----------------------------------------------------------------------------------------- widget


def test_each_control_of_the_widget_matters():
    widget = TrainingMemoryWidget(limit=40)
    start = dict(widget.pieces)
    assert sum(start.values()) == pytest.approx(17.19 + 8 * 1.96, abs=0.1)
    assert widget.passes == 32
    assert "32.9 GB, which fits a device of 40 GB" in widget.message.value
    for name, value in (
        ("rows", 32), ("shard", True), ("checkpointed", True), ("side", 256), ("version", "sdxl"),
    ):  # fmt: skip
        control = getattr(widget, name)
        old = control.value
        control.value = value
        assert widget.pieces != start, name
        control.value = old
    assert widget.pieces == start
    widget.devices.value, widget.rows.value = 256, 8
    assert widget.passes == 1
    assert "takes one pass of each device" in widget.message.value


def test_what_is_too_large_is_said():
    widget = TrainingMemoryWidget(limit=10)
    assert "fit a device of 10 GB" in widget.message.value
    assert "fits" not in widget.message.value
    assert widget.alt.startswith("sd1.5 at 512 × 512, 8 images in a pass")
