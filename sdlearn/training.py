"""How everything here is trained: the diffusion loss, an average of the weights, and one loop.

The loop, `train`, is a generator: it takes a `Job` (some networks, their optimizers and a function
that does one step) and yields the metrics of every step. Whatever is random in step k is drawn from
a generator made from (seed, k), so the batch is a function of the step and a run that was killed
goes on from its last checkpoint to exactly the weights that an undisturbed run would have had.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sdlearn.checkpoints import load_checkpoint, save_checkpoint, truncate_metrics
from sdlearn.files import replacing
from sdlearn.schedule import NoiseSchedule, prediction_type

Metrics = dict[str, float]
N = TypeVar("N", bound=nn.Module)


class TrainingDiverged(RuntimeError):
    """A loss or a gradient is no longer a finite number; nothing was saved after it appeared."""


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

    z_0, eps: (b, c, h, w); t: (b,) integers in 0..num_steps-1; context: (b, n, d).
    predicts: "noise" (DDPM, arXiv:2006.11239, eq. 14) or "velocity", v = alpha eps - sigma z_0
    (arXiv:2202.00512); the published names, "epsilon" and "v_prediction", mean the same.
    min_snr: the gamma of Min-SNR weighting, None for equal weights.

    Raises:
        ValueError: for another value of predicts, before the network is called.
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
    """Min-SNR weights (arXiv:2303.09556): min(SNR, gamma) on the error of z_0, carried over to the
    error of the noise (divide by SNR) or of the velocity (divide by SNR + 1).

    snr: any shape. predicts: as in diffusion_loss; ValueError for another prediction.
    """
    return snr.clamp(max=gamma) / (snr if prediction_type(predicts) == "noise" else snr + 1)


# ------------------------------------------------------------------------------- parts of one step


class EMA(Generic[N]):
    """Exponential moving average of a network's weights: `module` is the averaged copy.

    The decay starts low, min(decay, (1 + n) / (10 + n)) after n steps, so that the random weights
    of the beginning are forgotten at once.
    """

    def __init__(self, network: N, decay: float = 0.999) -> None:
        self.module: N = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """average <- decay * average + (1 - decay) * weights, after step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = [*self.module.parameters()]
        weights: list[Tensor] = [*network.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)


def learning_rate(step: int, steps: int, peak: float, warmup: int, floor: float = 0.01) -> float:
    """Linear warm-up over `warmup` steps, then half a cosine from the peak to floor * peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def update(loss: Tensor, optimizer: torch.optim.Optimizer, lr: float, clip: float = 1.0) -> Tensor:
    """One optimizer step on `loss` with the gradients clipped to the norm `clip`.

    Returns the norm of the gradients before clipping.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return norm


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside it, what draws from torch's own generator on the CPU, as fresh layers do, starts from
    this seed; after it, that generator goes on as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also set every GPU's
        yield


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """A well-mixed 63-bit seed for one stream of random numbers of one step."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> 1)


def step_generator(
    seed: int, step: int, stream: int = 0, device: str | torch.device = "cpu"
) -> torch.Generator:
    """The generator of everything torch draws in one step; `stream` keeps its uses apart."""
    return torch.Generator(device).manual_seed(step_seed(seed, step, stream))


def draw_noise(
    shape: Sequence[int], seed: int, step: int, device: torch.device, stream: int = 0
) -> Tensor:
    """Standard normal noise of one step: drawn on a CUDA GPU for itself, on the CPU for others."""
    home = "cuda" if device.type == "cuda" else "cpu"
    generator = step_generator(seed, step, stream, home)
    return torch.randn(*shape, generator=generator, device=home).to(device)


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or else a CUDA GPU, an Apple GPU, the CPU: the first there is.

    Raises ValueError for a name that this machine has no device for.
    """
    if name is not None:
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"no device {name!r} here: {reason}; accepted: cpu, cuda, mps"
            ) from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def channels_last(network: N, device: torch.device) -> N:
    """The network on a device, its convolutions laid out as CPUs and GPUs compute them fastest."""
    network.to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 arithmetic where it is faster, that is on CUDA; float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def need_compiler(device: torch.device) -> None:
    """Raise ValueError where torch.compile, which writes C++ for a CPU, could not go on with it."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ValueError("compile is True, and no C++ compiler is installed; accepted: False")


# --------------------------------------------------------------------------------------- the loop


@dataclass(frozen=True)
class Job:
    """Something to train.

    networks: everything that a checkpoint holds, averages included, by name.
    optimizers: by name. step: does step number k (from 0), a function of the weights and k alone,
    and returns its losses as scalars. sheet: draws a contact sheet without touching any random
    state that a step uses. frozen: short names (hashes) of the weights that it builds on.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    step: Callable[[int], dict[str, Tensor]]
    batch: int
    sheet: Callable[[], Image.Image] | None = None
    frozen: Mapping[str, str] = field(default_factory=dict)


def train(
    job: Job,
    steps: int,
    folder: Path | None = None,
    *,
    resume: bool = False,
    minutes: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_steps: int | None = None,
    checkpoint_seconds: float = 120.0,
    sheet_seconds: float = 180.0,
) -> Iterator[Metrics]:
    """Train until `steps` steps are done, `minutes` have passed or `stop()` says so.

    Yields one dictionary a step: step (from 1), the losses, images_per_second. With a `folder`,
    metrics.jsonl, sheets/ and checkpoints/ are kept in it, and every way out except divergence
    and sudden death writes a last checkpoint. On CUDA the metrics are fetched (and yielded)
    twenty steps at a time, so that the GPU never waits for Python.

    Raises TrainingDiverged when a metric is not finite; the checkpoint before it stays.
    """
    done = load_checkpoint(folder, job.networks, job.optimizers) if folder and resume else 0
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        truncate_metrics(folder / "metrics.jsonl", done)
    on_gpu = any(p.is_cuda for net in job.networks.values() for p in net.parameters())
    fetch_every = 20 if on_gpu else 1
    pending: list[dict[str, Tensor]] = []
    start = fetched = saved = drawn = time.monotonic()

    def fetch() -> list[Metrics]:
        """The metrics since the last call, checked to be finite and written down."""
        nonlocal fetched
        now = time.monotonic()
        speed = round(job.batch * len(pending) / max(now - fetched, 1e-9), 2)
        fetched = now
        first = done - len(pending) + 1
        rows: list[Metrics] = []
        for step, metrics in enumerate(pending, start=first):
            values = torch.stack([value.float() for value in metrics.values()]).tolist()
            for name, value in zip(metrics, values, strict=True):
                if not math.isfinite(value):
                    raise TrainingDiverged(f"step {step}: {name} is {value}")
            rows.append(
                {
                    "step": step,
                    **dict(zip(metrics, values, strict=True)),
                    "images_per_second": speed,
                }
            )
        pending.clear()
        if folder:
            with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        return rows

    def finish() -> list[Metrics]:
        rows = fetch()  # first, because it is what refuses to save a NaN
        if folder and done:
            save_checkpoint(folder, done, job.networks, job.optimizers)
            draw_sheet(job, folder, done)
        return rows

    try:
        while done < steps and not stop():
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                break
            pending.append({k: v.detach() for k, v in job.step(done).items()})
            done += 1
            due = time.monotonic() - saved > checkpoint_seconds
            if checkpoint_steps is not None and done % checkpoint_steps == 0:
                due = True
            show = folder is not None and time.monotonic() - drawn > sheet_seconds
            if due or show or len(pending) == fetch_every:
                rows = fetch()
                if folder and due:
                    save_checkpoint(folder, done, job.networks, job.optimizers)
                    saved = time.monotonic()
                yield from rows
            if folder and show:
                draw_sheet(job, folder, done)
                drawn = time.monotonic()
    except GeneratorExit:
        finish()  # the caller stopped iterating: between two steps, so the state is whole
        raise
    yield from finish()


def draw_sheet(job: Job, folder: Path, step: int) -> None:
    """Save the job's contact sheet as sheets/step-00001000.png, for a person to look at."""
    if job.sheet is None:
        return
    (folder / "sheets").mkdir(exist_ok=True)
    path = folder / "sheets" / f"step-{step:08d}.png"
    with torch.no_grad(), replacing(path) as part:
        job.sheet().save(part, format="PNG")
