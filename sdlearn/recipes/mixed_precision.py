"""Training in half precision: the state of the gradient scaler, and what the metrics say of it."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.amp import GradScaler

States = Mapping[str, torch.optim.Optimizer | GradScaler]


def with_scalers(
    optimizers: Mapping[str, torch.optim.Optimizer], **scalers: GradScaler
) -> dict[str, torch.optim.Optimizer | GradScaler]:
    """What a checkpoint keeps besides the weights: optimizers, and scalers that are in use."""
    return {**optimizers, **{k: scaler for k, scaler in scalers.items() if scaler.is_enabled()}}


def gradient_metrics(gradient: Tensor, scaler: GradScaler) -> dict[str, Tensor]:
    """The metrics of a step's gradients.

    Args:
        gradient: The norm that `update` returns.
        scaler: The scaler that `update` was given.

    Returns:
        "gradient", the norm. If the scaler is in use, also "skipped", which is 1 if the step was
        skipped because its gradients were not finite (the norm is then given as 0), and
        "loss_scale", the scale of the next step.
    """
    if not scaler.is_enabled():
        return {"gradient": gradient}
    skipped = ~gradient.isfinite()
    return {
        "gradient": gradient.masked_fill(skipped, 0.0),
        "skipped": skipped.float(),
        "loss_scale": gradient.new_tensor(scaler.get_scale()),
    }
