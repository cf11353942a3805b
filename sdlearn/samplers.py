"""Samplers: follow a path from noise to a clean latent, one denoising step at a time.

A sampler takes a denoiser (z, point) -> estimate of z_0, the initial z (b, c, h, w) and a path. It
knows nothing of networks, prompts or guidance. Each sampler is a generator that yields every state,
the initial one included, so a progress bar, a widget or an early stop is a loop of the caller.
`noise` returns standard normals in the shape of z, torch.randn_like by default. Stochastic samplers
call it once a step, deterministic ones never.

z is variance-preserving everywhere (alpha² + sigma² = 1; Karras's x is z / alpha). With s for the
next timestep, every sampler here steps to

    z_s = alpha_s z_0 + sqrt(sigma_s² - noise_std²) eps + noise_std * fresh noise

The stochastic samplers differ in noise_std. For the deterministic ones it is zero, and they solve
the probability-flow ODE

    d(z / alpha) = eps d(sigma / alpha)

(Song et al. 2021, eq. 14). They differ in the eps, or the z_0, that they hold constant over a step:
the one at its start (DDIM, Euler), the mean of both ends (Heun), or an extrapolation from earlier
steps (PLMS, LMS, DPM-Solver++).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.schedule import FinalSigma, Point, Spacing, StepsIn

Denoiser = Callable[[Tensor, Point], Tensor]
Noise = Callable[[], Tensor]
Path = Sequence[Point]


class State(NamedTuple):
    """The state of a sampler after a step.

    Attributes:
        step: 0 for the initial state, then 1 … the number of steps.
        point: The point of the path.
        z: The latent at this point, (b, c, h, w).
        z_0: The denoiser's estimate of the clean latent at the previous point, (b, c, h, w). In the
            initial state it is alpha z, the best linear estimate for a latent of unit variance.
    """

    step: int
    point: Point
    z: Tensor
    z_0: Tensor

    @property
    def t(self) -> float:
        """The timestep of this state."""
        return self.point.t


def initial_state(z: Tensor, path: Path) -> State:
    """The state at the first point of a path."""
    return State(0, path[0], z, path[0].alpha * z)


def predicted_noise(z: Tensor, z_0: Tensor, here: Point) -> Tensor:
    """The eps in z = alpha z_0 + sigma eps."""
    return (z - here.alpha * z_0) / here.sigma


def step_to(z: Tensor, eps: Tensor, here: Point, there: Point) -> Tensor:
    """One step of the ODE with constant eps: from z to its z_0, then to the noise level `there`."""
    z_0 = (z - here.sigma * eps) / here.alpha
    return there.alpha * z_0 + there.sigma * eps


def ddim(
    denoise: Denoiser, z: Tensor, path: Path, eta: float = 0.0, noise: Noise | None = None
) -> Iterator[State]:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16).

    eta scales the fresh noise: 0 is deterministic, 1 has the noise of DDPM.
    """
    noise = noise or (lambda: torch.randn_like(z))
    yield initial_state(z, path)
    for step, (here, there) in enumerate(pairwise(path), start=1):
        z_0 = denoise(z, here)
        eps = predicted_noise(z, z_0, here)
        noise_std = eta * posterior_std(here, there)
        z = there.alpha * z_0 + (there.sigma**2 - noise_std**2).sqrt() * eps
        if eta > 0:
            z = z + noise_std * noise()
        yield State(step, there, z, z_0)


def ddpm(denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None) -> Iterator[State]:
    """Ancestral sampling of denoising diffusion models (Ho et al. 2020, eq. 6 and 7).

    Each step samples q(z_s | z_t, z_0) with the estimate of z_0 ("fixed small" variance).
    """
    noise = noise or (lambda: torch.randn_like(z))
    yield initial_state(z, path)
    for step, (here, there) in enumerate(pairwise(path), start=1):
        z_0 = denoise(z, here)
        alpha_t = (here.alpha / there.alpha) ** 2  # Ho et al.'s alpha_t, over the whole stride
        mean = (
            there.alpha * (1 - alpha_t) / here.sigma**2 * z_0
            + alpha_t.sqrt() * there.sigma**2 / here.sigma**2 * z
        )
        z = mean + posterior_std(here, there) * noise()
        yield State(step, there, z, z_0)


def posterior_std(here: Point, there: Point) -> Tensor:
    """Standard deviation of q(z_s | z_t, z_0) with t = here, s = there (Ho et al. 2020, eq. 7)."""
    variance = (there.sigma / here.sigma) ** 2 * (1 - (here.alpha / there.alpha) ** 2)
    return variance.clamp(min=0).sqrt()  # two equal points may round to just below 0


def euler(denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None) -> Iterator[State]:
    """Euler's method on the ODE (Karras et al. 2022, algorithm 1 without the correction).

    In z this is deterministic DDIM; only the path differs.
    """
    return ddim(denoise, z, path)


def euler_ancestral(
    denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None
) -> Iterator[State]:
    """An Euler step past the noise level `there`, then fresh noise (Crowson's k-diffusion).

    The standard deviation of the fresh noise, k-diffusion's sigma_up times alpha, is that of the
    posterior. In z this is therefore DDIM with eta = 1, or DDPM.
    """
    return ddim(denoise, z, path, eta=1.0, noise=noise)


def heun(denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None) -> Iterator[State]:
    """Heun's method on the ODE: the mean of eps at both ends (Karras et al. 2022, algorithm 1).

    A step calls the denoiser twice, or once if it ends at sigma = 0: 2n - 1 calls for n steps.
    """
    yield initial_state(z, path)
    for step, (here, there) in enumerate(pairwise(path), start=1):
        z_0 = denoise(z, here)
        eps = predicted_noise(z, z_0, here)
        if there.sigma > 0:
            z_euler = step_to(z, eps, here, there)
            eps = (eps + predicted_noise(z_euler, denoise(z_euler, there), there)) / 2
        z = step_to(z, eps, here, there)
        yield State(step, there, z, z_0)


# Weights of the last 1 … 4 values of eps, the latest first.
ADAMS_BASHFORTH = [
    [1.0],
    [3 / 2, -1 / 2],
    [23 / 12, -4 / 3, 5 / 12],
    [55 / 24, -59 / 24, 37 / 24, -3 / 8],
]


def plms(denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None) -> Iterator[State]:
    """Pseudo linear multistep (Liu et al. 2022, eq. 12), as Stable Diffusion first used it.

    eps is extrapolated from its last four values with Adams-Bashforth weights, for equal strides of
    t. The first step has no history and is a Heun step, so n steps call the denoiser n + 1 times.
    A path of one step is a DDIM step.
    """
    yield initial_state(z, path)
    history: list[Tensor] = []
    for step, (here, there) in enumerate(pairwise(path), start=1):
        z_0 = denoise(z, here)
        history = [predicted_noise(z, z_0, here), *history][:4]
        eps = weighted_sum(ADAMS_BASHFORTH[len(history) - 1], history)
        if len(history) == 1 and len(path) > 2:
            z_euler = step_to(z, eps, here, there)
            eps = (eps + predicted_noise(z_euler, denoise(z_euler, there), there)) / 2
        z = step_to(z, eps, here, there)
        yield State(step, there, z, z_0)


def lms(
    denoise: Denoiser, z: Tensor, path: Path, order: int = 4, noise: Noise | None = None
) -> Iterator[State]:
    """Linear multistep in sigma / alpha (Crowson's k-diffusion): Adams-Bashforth, uneven steps.

    eps is the mean over the step of the polynomial through its last `order` values, 1 … 4; another
    order raises ValueError.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order is {order!r}; it must be 1, 2, 3 or 4")
    yield initial_state(z, path)
    history: list[Tensor] = []
    nodes: list[Tensor] = []
    for step, (here, there) in enumerate(pairwise(path), start=1):
        z_0 = denoise(z, here)
        history = [predicted_noise(z, z_0, here), *history][:order]
        nodes = [here.sigma / here.alpha, *nodes][:order]
        weights = lms_coefficients(torch.stack(nodes), there.sigma / there.alpha)
        z = step_to(z, weighted_sum(weights, history), here, there)
        yield State(step, there, z, z_0)


def lms_coefficients(nodes: Tensor, end: Tensor) -> list[float]:
    """Weights w_j such that sum_j w_j f(nodes_j) is the mean of f from nodes_0 to end.

    This holds for every polynomial f of degree below k, nodes being (k,) float64. In the variable
    u = (node - nodes_0) / (end - nodes_0), the mean of u^i is 1 / (i + 1).
    """
    u = (nodes - nodes[0]) / (end - nodes[0])
    powers = torch.arange(len(u), dtype=u.dtype)
    weights: list[float] = torch.linalg.solve(u ** powers[:, None], 1 / (powers + 1)).tolist()
    return weights


def weighted_sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """The sum of w_j x_j over tensors x_j of one shape."""
    return torch.stack([w * x for w, x in zip(weights, tensors, strict=True)]).sum(dim=0)


def dpm_pp_2m(
    denoise: Denoiser, z: Tensor, path: Path, noise: Noise | None = None
) -> Iterator[State]:
    """DPM-Solver++ of order 2, multistep (Lu et al. 2022, algorithm 2).

    z_0 is extrapolated from its last two estimates to the middle of the step in
    lambda = log(alpha / sigma); then comes a DDIM step. The first step, and a step that ends at
    sigma = 0, use z_0 without extrapolation.
    """
    yield initial_state(z, path)
    previous: list[tuple[Tensor, Tensor]] = []
    for step, (here, there) in enumerate(pairwise(path), start=1):
        z_0 = z_0_mid = denoise(z, here)
        lam = (here.alpha / here.sigma).log()
        if previous and there.sigma > 0:
            lam_previous, z_0_previous = previous.pop()
            lam_next = (there.alpha / there.sigma).log()
            z_0_mid = z_0 + (lam_next - lam) / (lam - lam_previous) / 2 * (z_0 - z_0_previous)
        previous = [(lam, z_0)]
        z = there.alpha * z_0_mid + there.sigma * predicted_noise(z, z_0_mid, here)
        yield State(step, there, z, z_0)


class SamplerSpec(NamedTuple):
    """A sampler and the path that it needs.

    Attributes:
        sample: One of the generators above.
        final_sigma: Where its path ends; None for the model's own choice.
        steps_in: The variable of its steps, see NoiseSchedule.path.
        has_eta: Whether `sample` takes an eta.
    """

    sample: Callable[..., Iterator[State]]
    final_sigma: FinalSigma | None = None
    steps_in: StepsIn = "timestep"
    has_eta: bool = False

    def with_eta(self, name: str | None, eta: float) -> Callable[..., Iterator[State]]:
        """The generator with its eta set; ValueError for eta != 0 if the sampler has no eta."""
        if eta and not self.has_eta:
            raise ValueError(f"eta is {eta}; the sampler {name} has no eta, ddim has")
        return partial(self.sample, eta=eta) if self.has_eta else self.sample

    def initial_std(self, path: Path, spacing: Spacing) -> Tensor | float:
        """Standard deviation of the initial noise.

        It is 1, the standard deviation of alpha z_0 + sigma eps. Samplers that step in sigma start
        from sigma eps instead if their first timestep is the noisiest of the table.
        """
        return path[0].sigma if self.steps_in == "sigma" and spacing != "leading" else 1.0


SAMPLERS = {
    "ddim": SamplerSpec(ddim, has_eta=True),
    "ddpm": SamplerSpec(ddpm, final_sigma="zero"),
    "plms": SamplerSpec(plms),
    "euler": SamplerSpec(euler, final_sigma="zero", steps_in="sigma"),
    "euler_ancestral": SamplerSpec(euler_ancestral, final_sigma="zero", steps_in="sigma"),
    "heun": SamplerSpec(heun, final_sigma="zero", steps_in="sigma"),
    "lms": SamplerSpec(lms, final_sigma="zero", steps_in="sigma"),
    "dpm_pp_2m": SamplerSpec(dpm_pp_2m, final_sigma="zero", steps_in="lambda"),
}


def get_sampler(name: str | None) -> SamplerSpec:
    """The sampler of this name; ValueError for an unknown name."""
    if not isinstance(name, str) or name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise ValueError(f"sampler {name!r:.80} is not known: the samplers are {known}")
    return SAMPLERS[name]


def num_steps(steps: int, strength: float) -> int:
    """How many steps run from an image, the last ones, rounded as in diffusers: 10 * 0.77 is 7."""
    return int(steps * strength)


def checked(states: Iterator[State]) -> Iterator[State]:
    """Run a sampler in inference mode and check that each latent is finite.

    Yields:
        Copies of its states outside inference mode, which any computation can use.

    Raises:
        FloatingPointError: If a latent is not finite.
    """
    while True:
        with torch.inference_mode():
            state = next(states, None)
        if state is None:
            return
        if not state.z.isfinite().all():
            raise FloatingPointError(
                f"the latent is not finite after step {state.step}; the weights are damaged, or "
                "their type overflows: use float32"
            )
        yield state._replace(z=state.z.clone(), z_0=state.z_0.clone())
