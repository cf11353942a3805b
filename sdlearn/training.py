"""Training: the diffusion loss, an exponential moving average of the weights, and one loop.

The loop, `train`, is a generator. It takes a `TrainingJob` (networks, their optimizers and a
function that does one step) and yields the metrics of every step. All random numbers of step k come
from a generator seeded with (seed, k), so the batch is a function of the step. A run that was
killed and resumed from its last checkpoint therefore ends with exactly the weights of an
uninterrupted run. Several processes share the batch as `sdlearn.distributed` describes.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.amp import GradScaler

from sdlearn import distributed
from sdlearn.schedule import NoiseSchedule, prediction_type
from sdlearn.utils.atomic_files import sync_file
from sdlearn.utils.checkpoint import checkpoints, load_checkpoint, save_checkpoint, take_part
from sdlearn.utils.metrics_file import append_metrics, truncate_metrics
from sdlearn.utils.run_limits import RunLimits
from sdlearn.utils.sample_files import save_samples
from sdlearn.utils.sharded_tensors import local, whole

Metrics = dict[str, float]
N = TypeVar("N", bound=nn.Module)
UNSCALED = GradScaler("cpu", enabled=False)  # passes everything on as it is


class TrainingDiverged(RuntimeError):
    """A loss or a gradient is not finite; nothing has been saved since."""


# -------------------------------------------------------------------- the loss of diffusion models


def diffusion_loss(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    z_0: Tensor,
    t: Tensor,
    eps: Tensor,
    context: Tensor,
    schedule: NoiseSchedule,
    predicts: str = "noise",
    min_snr: float | None = None,
) -> Tensor:
    """Mean squared error of the network's prediction at z_t = alpha z_0 + sigma eps, a scalar.

    Args:
        model: (z, t, context) -> prediction (b, c, h, w).
        z_0: Clean latents, (b, c, h, w).
        t: (b,) integers in 0 … num_steps - 1.
        eps: Standard normal noise, (b, c, h, w).
        context: Text embeddings, (b, n, d).
        schedule: Gives alpha and sigma.
        predicts: "noise" (DDPM, arXiv:2006.11239, eq. 14) or "velocity", v = alpha eps - sigma z_0
            (arXiv:2202.00512), or the published names "epsilon" and "v_prediction".
        min_snr: The gamma of `min_snr_weight`; None for equal weights.

    Raises:
        ValueError: For any other value of predicts, before the network is called.
    """
    predicts = prediction_type(predicts)
    alpha, sigma = (x.to(z_0).view(-1, 1, 1, 1) for x in schedule.at(t))
    prediction = model(alpha * z_0 + sigma * eps, t.to(z_0.device), context).float()
    target = eps if predicts == "noise" else alpha * eps - sigma * z_0
    loss = (prediction - target).square().mean(dim=(1, 2, 3))
    if min_snr is not None:
        loss = loss * min_snr_weight((alpha / sigma).square().flatten(), min_snr, predicts)
    return loss.mean()


def min_snr_weight(snr: Tensor, gamma: float, predicts: str = "noise") -> Tensor:
    """Min-SNR weights of the loss (arXiv:2303.09556), in the shape of snr.

    The weight min(SNR, gamma) of the error of z_0 becomes min(SNR, gamma) / SNR for the error of
    the noise and min(SNR, gamma) / (SNR + 1) for that of the velocity.

    Args:
        snr: alpha² / sigma², any shape.
        gamma: The upper limit, 5 in the paper.
        predicts: See `diffusion_loss`.

    Raises:
        ValueError: For any other value of predicts.
    """
    return snr.clamp(max=gamma) / (snr if prediction_type(predicts) == "noise" else snr + 1)


# ------------------------------------------------------------------------------- parts of one step


class EMA(Generic[N]):
    """Exponential moving average of a network's weights; `module` is the averaged copy.

    After n steps the decay is min(decay, (1 + n) / (10 + n)). It starts low so that the average
    forgets the random initial weights quickly.
    """

    def __init__(self, network: N, decay: float = 0.999) -> None:
        self.module: N = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Set average = decay * average + (1 - decay) * weights after step `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own = [[local(p) for p in net.parameters()] for net in (self.module, network)]
        torch._foreach_lerp_(own[0], own[1], 1 - decay)


def learning_rate(step: int, steps: int, peak: float, warmup: int, floor: float = 0.01) -> float:
    """Linear warm-up over `warmup` steps, then half a cosine from peak to floor * peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def update(
    loss: Tensor | Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    lr: float,
    clip: float = 1.0,
    scaler: GradScaler = UNSCALED,
) -> Tensor:
    """One optimizer step on `loss`; the gradients, those of all processes, are clipped to `clip`.

    Of a loss in several terms, each is computed and differentiated before the next (gradient
    accumulation). A scaler, for float16, multiplies the loss so that small gradients do not become
    0, and skips the step if one of them is not finite.

    Returns:
        The norm of the gradients before clipping, a scalar.
    """
    optimizer.zero_grad(set_to_none=True)
    for term in [loss] if isinstance(loss, Tensor) else loss:
        scaler.scale(term).backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    distributed.average_gradients(parameters)
    scaler.unscale_(optimizer)  # first, because the limit is for the gradients themselves
    norm = whole(nn.utils.clip_grad_norm_(parameters, clip))
    for group in optimizer.param_groups:
        group["lr"] = lr
    scaler.step(optimizer)
    scaler.update()
    return norm


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """A well-mixed 63-bit seed for one stream of random numbers of one step."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> 1)


def step_generator(
    seed: int, step: int, stream: int = 0, device: str | torch.device = "cpu"
) -> torch.Generator:
    """The generator for one step; uses with different `stream`s are independent."""
    return torch.Generator(device).manual_seed(step_seed(seed, step, stream))


# --------------------------------------------------------------------------------------- the loop


@dataclass(frozen=True)
class TrainingJob:
    """The networks to train, and how.

    Attributes:
        networks: All networks in a checkpoint, averages included, by name.
        optimizers: The optimizers of these networks, and scalers that are used, by name.
        step: Does step k, from 0, which must depend on the weights and k only. Returns its losses,
            scalars by name; of several processes, each returns those of its rows.
        batch: Images in one step, of all processes.
        samples: Draws a contact sheet of samples without changing random state that a step uses.
        frozen: Short hashes of the weights that are used but not trained, by name.
        skeletons: Those of the sharded networks that are exported, see `sharding.skeleton`.
    """

    networks: dict[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer | GradScaler]
    step: Callable[[int], dict[str, Tensor]]
    batch: int
    samples: Callable[[], Image.Image] | None = None
    frozen: Mapping[str, str] = field(default_factory=dict)
    skeletons: Mapping[str, nn.Module] = field(default_factory=dict)


def train(
    job: TrainingJob,
    steps: int,
    folder: Path | None = None,
    *,
    resume: bool = False,
    minutes: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint_steps: int | None = None,
    checkpoint_seconds: float = 120.0,
    samples_seconds: float = 180.0,
) -> Iterator[Metrics]:
    """Train until `steps` steps are done, `minutes` have passed or `should_stop()` is true.

    On CUDA the metrics are fetched, and yielded, twenty steps at a time, so that the GPU does not
    wait for Python. All processes call this; process 0 alone writes.

    Args:
        job: What to train.
        steps: Total number of steps, 1 or more, including those before a resumed checkpoint.
        folder: For metrics.jsonl, samples/ and checkpoints/. The last checkpoint is written when
            training ends or the caller stops iterating, but not after an exception.
        resume: Start from the newest checkpoint in the folder.
        minutes: Time limit of this run, more than 0. At least one step is done.
        should_stop: Called before every step, in every process; one of them stops all.
        checkpoint_steps: Write a checkpoint every so many steps; None to go by time only.
        checkpoint_seconds: Write a checkpoint every so many seconds.
        samples_seconds: Save samples every so many seconds.

    Yields:
        The metrics of each step: step (from 1), the losses, images_per_second.

    Raises:
        ValueError: At the call, if a number is out of range, or if the folder holds checkpoints and
            `resume` is False; at the first step, if no checkpoint of the folder can be read.
        TrainingDiverged: If a metric is not finite; the checkpoint before it stays.
    """
    limits = RunLimits(
        steps, minutes, should_stop, checkpoint_steps, checkpoint_seconds, samples_seconds
    )
    if folder and not resume and checkpoints(folder):
        raise ValueError(f"{folder} holds checkpoints; accepted: resume=True, or another folder")
    return _train(job, folder, resume, limits)


def _train(
    job: TrainingJob, folder: Path | None, resume: bool, limits: RunLimits
) -> Iterator[Metrics]:
    """The generator of `train`, whose numbers have been checked."""
    home = folder if resume else None
    done = load_checkpoint(home, job.networks, job.optimizers, limits.steps) if home else 0
    distributed.check_same(done, f"the last checkpoint of {folder}")
    begin = on_disk = done
    folder = folder if distributed.is_first_process() else None  # the others write nothing
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        truncate_metrics(folder / "metrics.jsonl", done)
    on_gpu = any(p.is_cuda for net in job.networks.values() for p in net.parameters())
    fetch_every = 20 if on_gpu else 1
    pending: list[dict[str, Tensor]] = []
    start = fetched = saved = drawn = time.monotonic()

    def fetch() -> list[Metrics]:
        """The metrics since the last call; checks that they are finite and appends them."""
        nonlocal fetched
        now = time.monotonic()
        speed = round(job.batch * len(pending) / max(now - fetched, 1e-9), 2)
        fetched = now
        rows: list[Metrics] = []
        for step, metrics in enumerate(pending, start=done - len(pending) + 1):
            named = dict(zip(metrics, torch.stack([*metrics.values()]).tolist(), strict=True))
            for name, value in named.items():
                if not math.isfinite(value):
                    raise TrainingDiverged(f"step {step}: {name} is {value}")
            rows.append({"step": step, **named, "images_per_second": speed})
        pending.clear()
        if folder:
            append_metrics(folder / "metrics.jsonl", rows)
        return rows

    def save() -> None:
        """Write a checkpoint unless there is one of this step, the metrics of its steps first."""
        nonlocal on_disk, saved
        if folder and done > on_disk:
            sync_file(folder / "metrics.jsonl")
            save_checkpoint(folder, done, job.networks, job.optimizers)
        elif done > on_disk:
            take_part(job.networks, job.optimizers)
        on_disk, saved = done, time.monotonic()

    def draw() -> None:
        """Save samples; all processes draw them if each has a part of the weights only."""
        if done and (folder or job.skeletons):
            save_samples(job.samples, folder, done)

    def finish() -> list[Metrics]:
        """The remaining metrics; writes the last checkpoint."""
        rows = fetch()  # first, because it raises at a NaN, which must not be saved
        save()
        draw()
        return rows

    try:
        while done < limits.steps:
            late = done > begin and limits.late(time.monotonic() - start)  # after one step at least
            if distributed.any_process(limits.should_stop() or late):
                break
            pending.append(distributed.average_metrics(job.step(done)))
            done += 1
            due = limits.checkpoint_due(done, time.monotonic() - saved)
            show = time.monotonic() - drawn > limits.samples_seconds
            due, show = distributed.decided_by_first(due, show)
            if due or show or len(pending) == fetch_every:
                rows = fetch()
                if due:
                    save()
                yield from rows
            if show:
                draw()
                drawn = time.monotonic()
    except GeneratorExit:
        finish()  # the caller stopped iterating between two steps, so the state is consistent
        raise
    yield from finish()
