"""What a training run takes: memory, operations, hours and money, each by a one-line formula.

Memory. Training with AdamW in float32 keeps for each parameter its value, its gradient and two
moments, 4 bytes each: 16 bytes, and 20 with an exponential moving average (EMA). Data parallelism
keeps all of it on every device; full sharding (ZeRO 3, arXiv:1910.02054; FSDP) splits it among the
devices. Activations come on top, and grow with the number of images on a device.

Operations. The backward pass costs about two forward passes, one for the gradients of the
activations and one for those of the weights (arXiv:2001.08361, section 2.1).

Time. Steps x batch images are shared by devices that each train on some number of them a second.
"""

from dataclasses import dataclass

FLOAT = 4  # bytes of a value in float32


@dataclass(frozen=True)
class StateMemory:
    """Bytes that a training run keeps on each device from step to step.

    Attributes:
        weights: The trained parameters.
        gradients: Their gradients.
        optimizer: What the optimizer keeps: two moments for AdamW.
        ema: The moving average of the parameters.
        frozen: Networks that are used but not trained; every device has all of them.
    """

    weights: float
    gradients: float
    optimizer: float
    ema: float
    frozen: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.frozen


def state_memory(
    parameters: int,
    averaged: int = 0,
    optimizer_values: int | None = None,
    frozen: int = 0,
    shards: int = 1,
) -> StateMemory:
    """Count the memory on each device of a training run in float32.

    Mixed precision does not change it: weights, gradients and moments stay in float32.

    Args:
        parameters: Trained parameters.
        averaged: Parameters with a moving average; 0 for no average.
        optimizer_values: Values that the optimizer keeps; None for AdamW's two per parameter.
        frozen: Parameters that are not trained.
        shards: Devices that share the state; 1 if each has all of it.
    """
    kept = 2 * parameters if optimizer_values is None else optimizer_values
    values = (parameters, parameters, kept, averaged)
    weights, gradients, optimizer, ema = (FLOAT * value / shards for value in values)
    return StateMemory(weights, gradients, optimizer, ema, FLOAT * frozen)


def training_flops(forward: float, checkpointing: bool = False) -> float:
    """Return the operations of a training step: three forward passes.

    Args:
        forward: Operations of the forward pass.
        checkpointing: Whether the backward pass computes the activations again, which costs one
            more forward pass.
    """
    return (4 if checkpointing else 3) * forward


def gpu_hours(images: float, images_per_second: float) -> float:
    """Return the hours that one device needs for all images; N devices need 1/N of them.

    Args:
        images: Steps times batch.
        images_per_second: Throughput of one device.
    """
    return images / images_per_second / 3600


def days(hours: float, devices: int) -> float:
    """Return how many days a training run lasts if the devices share its device hours."""
    return hours / devices / 24


def dollars(hours: float, price: float) -> float:
    """Return what device hours cost at a price per hour."""
    return hours * price
