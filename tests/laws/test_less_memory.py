"""Accumulated gradients, checkpointed activations and scaled losses change nothing but memory."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from sdlearn.recipes import unet
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
from sdlearn.recipes.captioned_latents import Batch, batches
from sdlearn.recipes.data import Batches
from sdlearn.recipes.denoising_step import denoising_step, in_training
from sdlearn.recipes.mixed_precision import gradient_metrics, with_scalers
from sdlearn.recipes.recipe import override
from sdlearn.training import update
from sdlearn.unet import UNet
from sdlearn.utils.checkpoint import load_checkpoint, save_checkpoint
from sdlearn.utils.device import autocast, loss_scaler
from sdlearn.versions import STORYBOOK

CPU = torch.device("cpu")
RECIPE = override(unet.RECIPES["small"], {"batch": 12, "lr": 1e-4, "min_snr": 5.0})
CONFIG = dataclasses.replace(
    STORYBOOK.unet, block_out_channels=(32, 32), num_heads=(2, 2), layers_per_block=1,
    cross_attention=(True, True), transformer_depth=(1, 1), cross_attention_dim=16, sample_size=4,
)  # fmt: skip


class Data:
    """Random latents and hidden states, and their batches."""

    def __init__(self, recipe: unet.UNetRecipe) -> None:
        rng = np.random.default_rng(0)
        latents = rng.standard_normal((20, 2, 4, 4, 4), dtype=np.float32)
        states = rng.standard_normal((20, 7, 16), dtype=np.float32)
        pages, captions = (Batches(x, recipe.seed, recipe.batch, CPU) for x in (latents, states))
        self.batch = batches(recipe, pages, captions, 1, torch.zeros(1, 7, 16), 1000, 0.5)


def trained(steps: int = 3, **changes: object) -> tuple[UNet, list[dict[str, Tensor]], list[Batch]]:
    """A U-Net after some steps, their metrics, and the rows that each call of it was given."""
    recipe = override(RECIPE, changes)
    torch.manual_seed(0)
    network = UNet(CONFIG)
    state = in_training(network, recipe, CPU)
    called: list[Batch] = []

    def model_for(k: int, batch: Batch) -> UNet:
        called.append(batch)
        return network

    step = denoising_step(recipe, Data(recipe), STORYBOOK, state, model_for, CPU)  # type: ignore[arg-type]
    return network, [step(k) for k in range(steps)], called


def distance(a: nn.Module, b: nn.Module) -> float:
    x, y = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (a, b))
    return float((x - y).norm() / y.norm())


# ---------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_of_a_batch_train_what_the_batch_trains(parts: int) -> None:
    whole, expected, _ = trained()
    split, found, called = trained(accumulate=parts)
    assert distance(split, whole) < 1e-6
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=2e-5, atol=0)
    assert [len(batch.rows) for batch in called] == [12 // parts] * 3 * parts
    first = np.concatenate([batch.places for batch in called[:parts]])
    assert first.tolist() == [*range(12)]


def test_each_term_is_differentiated_before_the_next_is_computed() -> None:
    weight = nn.Parameter(torch.tensor(2.0))
    seen = []

    def terms() -> Iterator[Tensor]:
        for factor in (3.0, 5.0):
            seen.append(None if weight.grad is None else float(weight.grad))
            yield factor * weight

    norm = update(terms(), torch.optim.SGD([weight]), lr=0.1, clip=100.0)
    assert seen == [None, 3.0]
    assert float(norm) == 8.0
    assert float(weight.detach()) == pytest.approx(2.0 - 0.1 * 8.0)


# ------------------------------------------------------------------------- activation checkpointing


def test_checkpointed_activations_give_the_same_bits_with_less_memory() -> None:
    torch.manual_seed(0)
    z, context, t = torch.randn(2, 4, 4, 4), torch.randn(2, 7, 16), torch.tensor([3, 700])
    networks = [UNet(CONFIG), UNet(CONFIG)]
    networks[1].load_state_dict(networks[0].state_dict())
    checkpoint_activations(networks[1])
    kept = []
    for network in networks:
        tensors: dict[int, int] = {}

        def keep(x: Tensor, tensors: dict[int, int] = tensors) -> Tensor:
            tensors[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = network(z, t, context).square().mean()
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        kept.append(sum(size for place, size in tensors.items() if place not in weights))
        loss.backward()
    for (name, a), b in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name
    assert kept[1] < 0.5 * kept[0]
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()


def test_a_recipe_checkpoints_its_network_and_not_the_average() -> None:
    plain, expected, _ = trained()
    checkpointed, found, _ = trained(activation_checkpointing=True)
    assert distance(checkpointed, plain) == 0
    assert found[-1]["loss"] == expected[-1]["loss"]
    state = in_training(UNet(CONFIG), override(RECIPE, {"activation_checkpointing": True}), CPU)
    assert "forward" in vars(state.network.mid_block.resnets[0])
    assert "forward" not in vars(state.average.module.mid_block.resnets[0])


# --------------------------------------------------------------------------------- half precision


def line() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    return weight, torch.optim.SGD([weight], lr=1.0)


def test_a_scale_is_taken_out_again_before_the_gradients_are_clipped() -> None:
    (plain, ours), (scaled, theirs) = line(), line()
    scaler = GradScaler("cpu", init_scale=1024.0)
    for clip in (100.0, 1.0):  # the gradient's norm is 5
        norms = [
            update((plain * torch.tensor([3.0, 4.0])).sum(), ours, 0.5, clip),
            update((scaled * torch.tensor([3.0, 4.0])).sum(), theirs, 0.5, clip, scaler),
        ]
        assert float(norms[0]) == float(norms[1]) == 5.0
        assert torch.equal(plain, scaled)


def test_a_small_gradient_becomes_0_in_float16_unless_the_loss_is_scaled() -> None:
    """The gradient 1e-8 of a float16 product is below the smallest float16, 6e-8."""
    found = []
    for scaler in (GradScaler("cpu", enabled=False), GradScaler("cpu")):
        weight = nn.Parameter(torch.tensor([1.0]))
        loss = (weight.half() * 1.0).float().sum() * 1e-8
        update(loss, torch.optim.SGD([weight]), 1.0, 1.0, scaler)
        found.append(float(weight.grad))
    assert found[0] == 0.0
    assert found[1] == pytest.approx(1e-8, rel=1e-3)


def test_a_step_with_an_infinite_gradient_is_skipped_and_counted() -> None:
    weight, optimizer = line()
    scaler = loss_scaler(CPU, "fp16")
    before = weight.detach().clone()
    bad = update(weight.sum() * 1e38, optimizer, 0.1, 1.0, scaler)  # times 65,536: infinite
    assert torch.equal(weight, before)
    found = {name: float(value) for name, value in gradient_metrics(bad, scaler).items()}
    assert found == {"gradient": 0.0, "skipped": 1.0, "loss_scale": 32_768.0}
    good = update(weight.sum(), optimizer, 0.1, 100.0, scaler)
    assert torch.allclose(weight, before - 0.1)
    found = {name: float(value) for name, value in gradient_metrics(good, scaler).items()}
    assert found["skipped"] == 0.0
    assert found["gradient"] == pytest.approx(2**0.5)


def test_a_checkpoint_keeps_the_scale(tmp_path: Path) -> None:
    weight, optimizer = line()
    scaler = loss_scaler(CPU, "fp16")
    update(weight.sum() * 1e38, optimizer, 0.1, 1.0, scaler)
    network = nn.Linear(1, 1)
    states = with_scalers({"line": optimizer}, scaler=scaler)
    save_checkpoint(tmp_path, 1, {"net": network}, states)
    again = loss_scaler(CPU, "fp16")
    assert again.get_scale() == 65_536.0
    assert load_checkpoint(tmp_path, {"net": network}, {"line": optimizer, "scaler": again}) == 1
    assert again.get_scale() == 32_768.0


def test_without_float16_nothing_is_scaled_or_kept() -> None:
    _, optimizer = line()
    for precision in ("auto", "float32", "bf16"):
        scaler = loss_scaler(CPU, precision)
        assert with_scalers({"line": optimizer}, scaler=scaler) == {"line": optimizer}
        assert gradient_metrics(torch.tensor(2.0), scaler) == {"gradient": torch.tensor(2.0)}


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
    ],
)
def test_a_precision_is_that_of_the_products_and_of_no_weight(
    precision: str, dtype: torch.dtype
) -> None:
    layer = nn.Linear(3, 3)
    with autocast(CPU, precision):
        assert layer(torch.zeros(1, 3)).dtype is dtype
    assert layer.weight.dtype is torch.float32


def test_half_precision_trains_nearly_the_same() -> None:
    _, exact, _ = trained(steps=2)
    for precision, tolerance in (("bf16", 0.02), ("fp16", 0.005)):
        network, found, _ = trained(steps=2, precision=precision)
        assert next(network.parameters()).dtype is torch.float32
        error = abs(float(found[0]["loss"] / exact[0]["loss"]) - 1)
        assert 0 < error < tolerance
        assert ("skipped" in found[0]) == (precision == "fp16")
