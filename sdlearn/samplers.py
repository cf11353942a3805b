"""Samplers: walk a path from noise to a clean latent, one denoising at a time.

A sampler sees a denoiser (z, point) -> estimate of z_0, a start z and a path; it knows nothing of
networks, prompts or guidance. Each is a generator that yields every state, the start included, so
progress bars, widgets and stopping early are the caller's own loop. `noise` gives the next standard
normal of z's shape; the stochastic ones ask it once a step, the others never.

z is variance-preserving everywhere (alpha² + sigma² = 1; Karras's x is z / alpha). Writing s for
the next time, every sampler here moves to

    z_s = alpha_s z_0 + sqrt(sigma_s² - kick²) eps + kick * fresh noise

The stochastic ones differ in the kick. The deterministic ones have none, and follow the flow

    d(z / alpha) = eps d(sigma / alpha)

(Song et al. 2021, eq. 14); they differ in which eps, or which z_0, they hold constant over a step:
the one seen at its start (DDIM, Euler), a mean of both ends (Heun), or one that also looks back at
the steps before (PLMS, LMS, DPM-Solver++).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.schedule import Final, Grid, Point, Spacing

Denoiser = Callable[[Tensor, Point], Tensor]
Noise = Callable[[], Tensor]
Path = Sequence[Point]


class Step(NamedTuple):
    """A state of a sampler.

    point: where on the path; z: the latent there, (b, c, h, w); z_0: the denoiser's estimate of
    the clean latent at the point before. At the start nothing has been denoised yet, and z_0 is
    alpha z, the best linear guess for a latent of unit variance.
    """

    point: Point
    z: Tensor
    z_0: Tensor


def start(z: Tensor, path: Path) -> Step:
    """The state in which a path begins."""
    return Step(path[0], z, path[0].alpha * z)


def noise_in(z: Tensor, z_0: Tensor, here: Point) -> Tensor:
    """The eps of z = alpha z_0 + sigma eps."""
    return (z - here.alpha * z_0) / here.sigma


def slide(z: Tensor, eps: Tensor, here: Point, there: Point) -> Tensor:
    """Follow the flow with eps held constant: the z_0 that goes with it, noised again to there."""
    z_0 = (z - here.sigma * eps) / here.alpha
    return there.alpha * z_0 + there.sigma * eps


def ddim(
    denoise: Denoiser, z: Tensor, path: Path, eta: float = 0.0, noise: Noise | None = None
) -> Iterator[Step]:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16).

    z: (b, c, h, w), noise at path[0]. eta: 0 is deterministic, 1 has the noise of DDPM.
    noise: gives the next standard normal of z's shape, asked once a step where eta > 0.
    """
    noise = noise or (lambda: torch.randn_like(z))
    yield start(z, path)
    for here, there in pairwise(path):
        z_0 = denoise(z, here)
        eps = noise_in(z, z_0, here)
        kick = eta * posterior_std(here, there)
        z = there.alpha * z_0 + (there.sigma**2 - kick**2).sqrt() * eps
        if eta > 0:
            z = z + kick * noise()
        yield Step(there, z, z_0)


def ddpm(denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None) -> Iterator[Step]:
    """Ancestral sampling of denoising diffusion models (Ho et al. 2020, eq. 6 and 7).

    Each step draws from q(z_s | z_t, z_0) with the estimate of z_0 put in ("fixed small"
    variance). z and noise as in ddim; noise is asked once a step, the last included.
    """
    noise = noise or (lambda: torch.randn_like(z))
    yield start(z, path)
    for here, there in pairwise(path):
        z_0 = denoise(z, here)
        keep = (here.alpha / there.alpha) ** 2  # Ho's alpha_t, over the whole stride
        mean = (
            there.alpha * (1 - keep) / here.sigma**2 * z_0
            + keep.sqrt() * there.sigma**2 / here.sigma**2 * z
        )
        z = mean + posterior_std(here, there) * noise()
        yield Step(there, z, z_0)


def posterior_std(here: Point, there: Point) -> Tensor:
    """Standard deviation of q(z_s | z_t, z_0), with t = here and s = there (Ho et al. eq. 7)."""
    variance = (there.sigma / here.sigma) ** 2 * (1 - (here.alpha / there.alpha) ** 2)
    return variance.clamp(min=0).sqrt()  # two equal points may round to just below 0


def euler(denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None) -> Iterator[Step]:
    """Euler's method on the flow of Karras et al. (2022, algorithm 1 without its second order).

    In z it is the deterministic DDIM: what differs is the path.
    """
    yield from ddim(denoise, z, path)


def euler_ancestral(
    denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None
) -> Iterator[Step]:
    """Euler to a little less noise than there, then fresh noise (Crowson's k-diffusion).

    The fresh part, sigma_up of that code times alpha, is the posterior's standard deviation: in z
    this is DDIM with eta 1, and so DDPM.
    """
    yield from ddim(denoise, z, path, eta=1.0, noise=noise)


def heun(denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None) -> Iterator[Step]:
    """Heun's method on the flow: the mean of eps at both ends (Karras et al. 2022, algorithm 1).

    Two calls of the denoiser a step, but one where it ends clean: 2n - 1 for n steps.
    """
    yield start(z, path)
    for here, there in pairwise(path):
        z_0 = denoise(z, here)
        eps = noise_in(z, z_0, here)
        if there.sigma > 0:
            ahead = slide(z, eps, here, there)
            eps = (eps + noise_in(ahead, denoise(ahead, there), there)) / 2
        z = slide(z, eps, here, there)
        yield Step(there, z, z_0)


# The weights of the last few, the latest first.
ADAMS_BASHFORTH = [
    [1.0],
    [3 / 2, -1 / 2],
    [23 / 12, -4 / 3, 5 / 12],
    [55 / 24, -59 / 24, 37 / 24, -3 / 8],
]


def plms(denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None) -> Iterator[Step]:
    """Pseudo linear multistep (Liu et al. 2022, eq. 12), as Stable Diffusion first used it.

    eps is extrapolated from the last four by Adams and Bashforth's weights, for equal strides of t.
    The first step has no past and is one of Heun, so n steps call the denoiser n + 1 times; a path
    of a single step, which ends where nothing can be asked, is DDIM's.
    """
    yield start(z, path)
    past: list[Tensor] = []
    for here, there in pairwise(path):
        z_0 = denoise(z, here)
        past = [noise_in(z, z_0, here), *past][:4]
        eps = mix(ADAMS_BASHFORTH[len(past) - 1], past)
        if len(past) == 1 and len(path) > 2:
            ahead = slide(z, eps, here, there)
            eps = (eps + noise_in(ahead, denoise(ahead, there), there)) / 2
        z = slide(z, eps, here, there)
        yield Step(there, z, z_0)


def lms(
    denoise: Denoiser, z: Tensor, path: Path, order: int = 4, noise: Noise | None = None
) -> Iterator[Step]:
    """Linear multistep in sigma / alpha (Crowson's k-diffusion): Adams and Bashforth's method on
    a grid of uneven steps.

    eps is the mean, over the step, of the polynomial through the last `order` of them, 1 … 4;
    ValueError for another order.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order is {order!r}; it must be 1, 2, 3 or 4")
    yield start(z, path)
    past: list[Tensor] = []
    nodes: list[Tensor] = []
    for here, there in pairwise(path):
        z_0 = denoise(z, here)
        past = [noise_in(z, z_0, here), *past][:order]
        nodes = [here.sigma / here.alpha, *nodes][:order]
        eps = mix(mean_weights(torch.stack(nodes), there.sigma / there.alpha), past)
        z = slide(z, eps, here, there)
        yield Step(there, z, z_0)


def mean_weights(nodes: Tensor, end: Tensor) -> list[float]:
    """Weights w with sum of w_j f(nodes_j) = the mean of f from nodes_0 to end, for every
    polynomial f of degree below the number of nodes.

    nodes: (k,) float64. In u = (node - nodes_0) / (end - nodes_0) the mean of u^i is 1 / (i + 1).
    """
    u = (nodes - nodes[0]) / (end - nodes[0])
    powers = torch.arange(len(u), dtype=u.dtype)
    weights: list[float] = torch.linalg.solve(u ** powers[:, None], 1 / (powers + 1)).tolist()
    return weights


def mix(weights: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    """The weighted sum."""
    return torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum(dim=0)


def dpm_pp_2m(
    denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None
) -> Iterator[Step]:
    """DPM-Solver++ of order 2, multistep (Lu et al. 2022, algorithm 2).

    z_0 is extrapolated, in lambda = log(alpha / sigma), to the middle of the step from its last two
    estimates; then it is DDIM. The first step has no past, and one that ends clean has no middle:
    they take z_0 as it is.
    """
    yield start(z, path)
    past: list[tuple[Tensor, Tensor]] = []
    for here, there in pairwise(path):
        z_0 = middle = denoise(z, here)
        now = (here.alpha / here.sigma).log()
        if past and there.sigma > 0:
            before, z_0_before = past.pop()
            ahead = (there.alpha / there.sigma).log()
            middle = z_0 + (ahead - now) / (now - before) / 2 * (z_0 - z_0_before)
        past = [(now, z_0)]
        z = there.alpha * middle + there.sigma * noise_in(z, middle, here)
        yield Step(there, z, z_0)


class Offer(NamedTuple):
    """A sampler as a pipeline offers it: how it walks, and on which path.

    final: where the path ends; None leaves that to the model's own specification. grid: which
    family's points it takes, see NoiseSchedule.path.
    """

    walk: Callable[..., Iterator[Step]]
    final: Final | None = None
    grid: Grid = "t"

    def initial_std(self, path: Path, spacing: Spacing) -> Tensor | float:
        """The standard deviation of the initial noise.

        A walk begins at alpha z_0 + sigma eps, of variance 1. The samplers in sigma leave the part
        of z_0 out, and begin at sigma eps, where the first time is the noisiest of the table.
        """
        return path[0].sigma if self.grid == "sigma" and spacing != "leading" else 1.0


SAMPLERS = {
    "ddim": Offer(ddim),
    "ddpm": Offer(ddpm, final="clean"),
    "plms": Offer(plms),
    "euler": Offer(euler, final="clean", grid="sigma"),
    "euler_ancestral": Offer(euler_ancestral, final="clean", grid="sigma"),
    "heun": Offer(heun, final="clean", grid="sigma"),
    "lms": Offer(lms, final="clean", grid="sigma"),
    "dpm_pp_2m": Offer(dpm_pp_2m, final="clean", grid="lambda"),
}


def offered(name: str) -> Offer:
    """The sampler of this name; ValueError with the known names for any other."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r} is not known: the samplers are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
