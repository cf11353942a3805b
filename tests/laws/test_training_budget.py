"""Memory, hours and cost of a training: the formulas, against counts and against published runs."""

import pytest
import torch
from torch import nn

from sdlearn.course import published_budgets as published
from sdlearn.course.live_memory import LiveMemory, fused_attention, kept_bytes, recomputed_bytes
from sdlearn.course.meta_training import meta_training
from sdlearn.course.training_budget import (
    days,
    dollars,
    gpu_hours,
    state_memory,
    training_flops,
)
from sdlearn.recipes import unet
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
from sdlearn.recipes.muon import Muon
from sdlearn.unet import UNet, UNetConfig
from sdlearn.versions import SD1_5

SD1, SDXL = 859_520_964, 2_567_463_684  # parameters of the U-Nets


@pytest.mark.parametrize(
    ("parameters", "without", "with_ema"), [(SD1, 13.8, 17.2), (SDXL, 41.1, 51.3)]
)
def test_adam_keeps_sixteen_bytes_a_parameter_and_twenty_with_an_average(
    parameters: int, without: float, with_ema: float
) -> None:
    plain, averaged = state_memory(parameters), state_memory(parameters, parameters)
    assert plain.total == 16 * parameters
    assert averaged.total == 20 * parameters
    assert round(plain.total / 1e9, 1) == without
    assert round(averaged.total / 1e9, 1) == with_ema
    assert averaged.optimizer == 2 * averaged.weights == 2 * averaged.gradients


def test_sharding_divides_the_state_but_not_the_frozen_networks() -> None:
    whole = state_memory(SD1, SD1, frozen=1000)
    share = state_memory(SD1, SD1, frozen=1000, shards=8)
    assert share.total - share.frozen == pytest.approx((whole.total - whole.frozen) / 8, rel=1e-15)
    assert share.frozen == whole.frozen == 4000


def test_the_optimizers_keep_what_is_counted() -> None:
    def kept(optimizer: torch.optim.Optimizer) -> int:
        tensors = [x for state in optimizer.state.values() for x in state.values()]
        return sum(x.numel() for x in tensors if x.ndim)  # not the number of steps

    for kind, each in ((torch.optim.AdamW, 2 * (16 * 9 + 16)), (Muon, 16 * 9 + 2 * 16)):
        layer = nn.Linear(9, 16)
        optimizer = kind(layer.parameters())
        layer(torch.ones(1, 9)).sum().backward()
        optimizer.step()
        assert kept(optimizer) == each


@pytest.mark.parametrize("row", published.MOSAIC, ids=lambda row: f"{row.devices} GPUs")
def test_images_and_throughput_give_the_published_days_and_dollars(
    row: published.Throughput,
) -> None:
    n = row.devices
    hours = sum(
        gpu_hours(published.MOSAIC_IMAGES[size], throughput / n)
        for size, throughput in ((256, row.at_256), (512, row.at_512))
    )
    assert days(hours, n) == pytest.approx(row.days, abs=0.0051)
    assert dollars(hours, 2) == pytest.approx(row.cost, abs=3)


def test_published_hours_times_prices_are_the_published_costs() -> None:
    budgets = {each.model: each for each in published.BUDGETS}
    for each in published.BUDGETS:
        if each.price is not None:
            assert dollars(each.hours, each.price) == pytest.approx(each.cost, rel=0.013)
    first, last = budgets["Stable Diffusion 1"], budgets["PRX speed-run"]
    # The paper of PixArt-α counts Stable Diffusion's hours in days of an A100.
    assert days(first.hours, 1) == 6250
    assert days(budgets["PixArt-α"].hours, 1) == 675
    # 250 W for each GPU and 0.3 kg of CO2 for a kWh, as the model card reckons.
    assert first.hours * 0.25 * 0.3 == pytest.approx(11_250, rel=1e-12)
    assert days(first.hours, 32 * 8) == pytest.approx(24.4, abs=0.05)
    assert dollars(first.hours, 4) / last.cost == 400
    assert [each.year for each in published.BUDGETS] == sorted(x.year for x in published.BUDGETS)


def test_the_recipe_is_the_last_published_stage() -> None:
    recipe, stage = unet.RECIPES["sd1.5"], published.SD1_STAGES[-1]
    assert (recipe.steps, recipe.size, recipe.dropout) == (595_000, 512, 0.1)
    assert (stage.steps, stage.size, stage.dropout) == (recipe.steps, recipe.size, recipe.dropout)
    assert recipe.batch == published.SD1_BATCH == 32 * 8 * recipe.accumulate * 4
    assert (recipe.lr, recipe.warmup, recipe.lr_floor, recipe.ema) == (1e-4, 10_000, 1.0, 0.9999)
    assert sum(stage.steps for stage in published.SD1_STAGES) == 1_541_000
    assert unet.new_config(recipe, SD1_5.vae, SD1_5.text[0]) == SD1_5.unet


def test_the_full_u_net_on_the_meta_device(tmp_path) -> None:  # type: ignore[no-untyped-def]
    training = meta_training(unet.RECIPES["sd1.5"], tmp_path)
    assert training.parameters == SD1
    assert {each.device.type for each in training.trained["unet"].parameters()} == {"meta"}
    assert training.optimizer_values == 2 * SD1
    forward = training.flops()
    assert round(forward / 1e9, 1) == 803.3  # twice the 401.6 GMACs of notebook 15
    assert training_flops(forward) == 3 * forward
    assert training_flops(forward, checkpointing=True) == 4 * forward
    assert 1e9 < training.activations(1) < 4e9


def test_kept_bytes_are_those_of_a_real_backward_pass() -> None:
    layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to("meta")
    x = torch.empty(5, 8, device="meta")
    # The input of each linear layer, and ReLU's output, which is the second one's input.
    assert kept_bytes(lambda: layers(x), layers) == 4 * 5 * (8 + 16)
    q, k, v = (torch.empty(2, 3, n, 8, device="meta", requires_grad=True) for n in (64, 32, 32))
    # q, k, v, the output and one sum for each query, but not the 64 x 32 weights.
    values = 2 * 3 * (64 * 8 + 32 * 8 * 2 + 64 * 8 + 64)
    assert kept_bytes(lambda: nn.functional.scaled_dot_product_attention(q, k, v)) == 4 * values
    assert fused_attention(q, k, v).shape == (2, 3, 64, 8)


SMALL = UNetConfig(
    block_out_channels=(32, 32), layers_per_block=1, cross_attention=(True, True),
    transformer_depth=(1, 1), num_heads=(2, 2), cross_attention_dim=16, norm_num_groups=8,
    sample_size=16,
)  # fmt: skip


@pytest.mark.parametrize("checkpointed", [False, True])
def test_activations_are_the_measured_peak_of_a_training_pass(*, checkpointed: bool) -> None:
    network = UNet(SMALL)
    if checkpointed:
        checkpoint_activations(network)

    def inputs(n: int) -> tuple[torch.Tensor, ...]:
        return torch.randn(n, 4, 16, 16), torch.arange(n), torch.randn(n, 7, 16)

    def measured(n: int) -> int:
        z, t, context = inputs(n)
        network.zero_grad()
        with torch.enable_grad(), LiveMemory() as memory:
            network(z, t, context).square().mean().backward()
        return memory.peak

    def counted(n: int) -> tuple[int, int]:
        given = inputs(n)
        kept = kept_bytes(lambda: network(*given), network)
        return kept, recomputed_bytes(network, [network], *given)

    peak = measured(24) - measured(16)  # of 8 images: the gradients of the weights cancel
    kept, again = (b - a for a, b in zip(counted(16), counted(24), strict=True))
    assert 0.85 * peak < kept + again <= 1.02 * peak  # temporary memory isn't counted
    assert (kept < 0.7 * peak) == checkpointed  # so the block that is computed again matters
    assert (again > 0) == checkpointed
