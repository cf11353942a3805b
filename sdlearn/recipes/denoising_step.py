"""The training step shared by U-Nets, ControlNets, adapters and the vectors of new words."""

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from sdlearn.distributed import process_count
from sdlearn.recipes.activation_checkpointing import BLOCKS, checkpoint_activations
from sdlearn.recipes.captioned_latents import Batch, CaptionedLatents, DiffusionRecipe
from sdlearn.recipes.mixed_precision import gradient_metrics, with_scalers
from sdlearn.recipes.noise import draw_noise
from sdlearn.recipes.personal_recipe import weighted_parts
from sdlearn.sharding import shard, skeleton
from sdlearn.training import EMA, diffusion_loss, learning_rate, update
from sdlearn.utils.device import autocast, loss_scaler, need_compiler
from sdlearn.versions import ModelSpec

N = TypeVar("N", bound=nn.Module)
B = TypeVar("B", bound="Divisible")
Model = Callable[[Tensor, Tensor, Tensor], Tensor]  # (z, t, context) -> prediction


class Divisible(Protocol):
    """A batch that can be divided into equal parts."""

    def parts(self, n: int) -> Iterator[Self]:
        """Its n equal parts, in order."""
        ...


class Trained(NamedTuple, Generic[N]):
    """A network in training.

    Attributes:
        network: The network.
        average: The exponential moving average (EMA) of its weights.
        optimizer: AdamW on its weights.
        scaler: The loss scaler, for float16.
        skeletons: The skeleton of the average, if it is sharded, under its name in a checkpoint.
    """

    network: N
    average: EMA[N]
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    skeletons: dict[str, nn.Module]

    def states(self, name: str) -> dict[str, torch.optim.Optimizer | GradScaler]:
        """What a checkpoint keeps besides the weights, with the optimizer under this name."""
        return with_scalers({name: self.optimizer}, scaler=self.scaler)


def in_training(network: N, recipe: DiffusionRecipe, device: torch.device) -> Trained[N]:
    """Return the network, moved to the device, with its EMA, optimizer and scaler."""
    is_shared = recipe.shard and process_count() > 1
    if is_shared:
        network.cpu()  # the whole of it and of its average may be too large for the device
    average = EMA(network, recipe.ema)
    skeletons: dict[str, nn.Module] = {"ema": skeleton(average.module)} if is_shared else {}
    if recipe.activation_checkpointing:
        checkpoint_activations(network)
    for each in (network, average.module):
        shard(each, BLOCKS, device) if is_shared else each.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        betas=(0.9, 0.99),
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    scaler = loss_scaler(device, recipe.precision)
    return Trained(network, average, optimizer, scaler, skeletons)


def compiled(
    network: nn.Module, recipe: DiffusionRecipe, device: torch.device
) -> Callable[..., Tensor]:
    """Return the network, compiled if the recipe asks for it.

    Raises:
        ValueError: If it asks for it and there is no compiler.
    """
    if not recipe.compile:
        return network
    need_compiler(device)
    return torch.compile(network)


def denoising_step(
    recipe: DiffusionRecipe,
    data: CaptionedLatents,
    spec: ModelSpec,
    trained: Trained[N],
    model_for: Callable[[int, Batch], Model],
    device: torch.device,
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function that runs step k: noise, loss, update of the network and its EMA.

    Args:
        recipe: The settings.
        data: The batches.
        spec: Gives the noise schedule and what the network predicts.
        trained: The network to update.
        model_for: Returns the model for some rows of batch k. The model may use other inputs
            besides z, t and context.
        device: Where to train.
    """

    def draw(k: int) -> tuple[Batch, Callable[[Batch], Tensor]]:
        whole = data.batch(k)
        eps = draw_noise((recipe.batch, *whole.z_0.shape[1:]), recipe.seed, k, device, stream=2)

        def mean_loss(batch: Batch) -> Tensor:
            return diffusion_loss(
                model_for(k, batch), batch.z_0, batch.t, eps[batch.places], batch.context,
                spec.schedule, spec.predicts, min_snr=recipe.min_snr or None,
            )  # fmt: skip

        def loss(batch: Batch) -> Tensor:
            terms = weighted_parts(recipe, batch)
            return torch.stack([weight * mean_loss(part) for weight, part in terms]).sum()

        return whole, loss

    return accumulated_step(recipe, trained, draw, device)


def accumulated_step(
    recipe: DiffusionRecipe,
    trained: Trained[N],
    draw: Callable[[int], tuple[B, Callable[[B], Tensor]]],
    device: torch.device,
) -> Callable[[int], dict[str, Tensor]]:
    """Return the function that runs step k with any loss: part by part, then one update.

    Args:
        recipe: The settings.
        trained: The network to update.
        draw: Returns this process's rows of batch k, and the function that gives the mean loss of
            some of them.
        device: Where to train.
    """

    def step(k: int) -> dict[str, Tensor]:
        whole, loss_of = draw(k)
        terms: list[Tensor] = []

        def losses() -> Iterator[Tensor]:
            """The loss of each part, divided by the number of parts: they add up to the batch's."""
            for batch in whole.parts(recipe.accumulate):
                with autocast(device, recipe.precision):
                    loss = loss_of(batch)
                terms.append(loss.detach() / recipe.accumulate)
                yield loss / recipe.accumulate

        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup, recipe.lr_floor)
        gradient = update(losses(), trained.optimizer, lr, scaler=trained.scaler)
        trained.average.update(trained.network, k)
        return {"loss": torch.stack(terms).sum(), **gradient_metrics(gradient, trained.scaler)}

    return step
