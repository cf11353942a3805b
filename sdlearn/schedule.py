"""The noise schedule: how much signal and how much noise a latent has at each timestep.

The forward process of DDPM (Ho et al. 2020, eq. 4) has a closed form: a clean latent z_0 becomes

    z_t = alpha_t z_0 + sigma_t eps,    alpha_t = sqrt(alphabar_t),  sigma_t = sqrt(1 - alphabar_t)

so the whole schedule is one table of alphabar over t = 0 … 999. A *path* is the short list of
points that a sampler visits, from almost pure noise to almost none, or none.
"""

import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

Spacing = Literal["leading", "trailing", "linspace"]
Sigmas = Literal["table", "karras", "uniform_lambda"]
FinalSigma = Literal["min", "zero"]
StepsIn = Literal["timestep", "sigma", "lambda"]
Kind = Literal["scaled_linear", "linear", "cosine"]
Prediction = Literal["noise", "velocity"]
# The accepted spellings: those two and the names in published files.
Predicts = Literal["noise", "velocity", "epsilon", "v_prediction"]
LONGEST_TABLE = 1_000_000
PUBLISHED_PREDICTIONS: dict[str, Prediction] = {"epsilon": "noise", "v_prediction": "velocity"}


def prediction_type(predicts: str) -> Prediction:
    """What a network's output means, "noise" or "velocity", from that name or the published one.

    Published files call the noise "epsilon" and the velocity "v_prediction".

    Raises:
        ValueError: For any other value of predicts.
    """
    for published, prediction in PUBLISHED_PREDICTIONS.items():
        if predicts in (prediction, published):
            return prediction
    raise ValueError(
        f"predicts is {reprlib.repr(predicts)}; it must be 'noise' or 'velocity', which published "
        "files call 'epsilon' and 'v_prediction'"
    )


class Point(NamedTuple):
    """A point on the path from noise to a clean latent, where z_t = alpha z_0 + sigma eps.

    Attributes:
        t: The timestep that the network receives.
        alpha, sigma: float64 scalars on the CPU. Multiplying a latent by a scalar does not change
            the latent's type or device.
    """

    t: float
    alpha: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """The table t -> (alpha, sigma); the defaults are those of every Stable Diffusion.

    Attributes:
        num_steps: Length of the table.
        beta_start, beta_end: The first and the last beta, unused by "cosine".
        kind: "scaled_linear" (linear in sqrt(beta), from Rombach et al.'s code), "linear" (Ho et
            al. 2020) or "cosine" (Nichol and Dhariwal 2021).
        zero_terminal_snr: Shift sqrt(alphabar) so that the last entry is pure noise (Lin et al.
            2023, algorithm 1). This needs a network that predicts velocity, and trailing spacing.

    Raises:
        ValueError: For an unknown kind, a table with no entries or more than a million, or a beta
            that is not between 0 and 1.
    """

    num_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    kind: Kind = "scaled_linear"
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("scaled_linear", "linear", "cosine"):
            given = reprlib.repr(self.kind)
            raise ValueError(f"kind is {given}; it must be 'scaled_linear', 'linear' or 'cosine'")
        if type(self.num_steps) is not int or not 1 <= self.num_steps <= LONGEST_TABLE:
            raise ValueError(
                f"num_steps is {reprlib.repr(self.num_steps)}; it must be a whole number in "
                f"1 … {LONGEST_TABLE}"
            )
        for name in ("beta_start", "beta_end"):
            beta = getattr(self, name)
            if type(beta) not in (float, int) or not 0 < beta < 1:
                raise ValueError(f"{name} is {reprlib.repr(beta)}; it must lie between 0 and 1")

    @cached_property
    def betas(self) -> Tensor:
        """The variance added by each single step, (num_steps,) float64."""
        if self.kind == "cosine":
            u = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps  # t / T
            alphabar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
            return (1 - alphabar[1:] / alphabar[:-1]).clamp(max=0.999)
        power = 0.5 if self.kind == "scaled_linear" else 1.0
        ends = self.beta_start**power, self.beta_end**power
        return torch.linspace(*ends, self.num_steps, dtype=torch.float64) ** (1 / power)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """alphabar_t, the signal's share of the variance at t, (num_steps,) float64."""
        alphabar = torch.cumprod(1 - self.betas, dim=0)
        if self.zero_terminal_snr:
            alpha = alphabar.sqrt()
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
            alphabar = alpha**2
        return alphabar

    @cached_property
    def sigmas(self) -> Tensor:
        """The noise levels sigma_t / alpha_t, Karras et al.'s (2022) sigma, (num_steps,) float64.

        With zero terminal SNR the last entry is still finite, because the published samplers that
        step in this ratio replace the last alphabar, which is 0, by 2^-24.
        """
        alphabar = self.alphas_cumprod.clone()
        if self.zero_terminal_snr:
            alphabar[-1] = 2.0**-24
        return (1 / alphabar - 1).sqrt()

    def at(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at t, float64 on the CPU, in the shape of t.

        Args:
            t: In 0 … num_steps - 1. At a fractional timestep, sigma / alpha is interpolated
                linearly, as in the published samplers.

        Raises:
            ValueError: For t outside the table.
        """
        try:
            t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
            inside = bool(((t >= 0) & (t <= self.num_steps - 1)).all())
        except (TypeError, RuntimeError) as error:  # not numbers, or a tensor without values
            given = type(t).__name__
            raise ValueError(
                f"t is a {given}; it must be a number or a Tensor of numbers"
            ) from error
        if not inside:
            given = reprlib.repr(t.tolist())
            raise ValueError(f"t is {given}; it must lie in 0 … {self.num_steps - 1}")
        below, above = t.floor().long(), t.ceil().long()
        alphabar = self.alphas_cumprod[below]
        fractional = below != above
        if fractional.any():
            ratio = torch.lerp(self.sigmas[below], self.sigmas[above], t - below)
            alphabar = torch.where(fractional, 1 / (1 + ratio**2), alphabar)
        return alphabar.sqrt(), (1 - alphabar).sqrt()

    def snr(self, t: float | Tensor) -> Tensor:
        """Signal-to-noise ratio alpha² / sigma² at t, float64, in the shape of t."""
        alpha, sigma = self.at(t)
        return (alpha / sigma) ** 2

    def timesteps(
        self,
        steps: int,
        spacing: Spacing = "leading",
        steps_offset: int = 1,
        rounded: bool = True,
    ) -> list[float]:
        """The timesteps at which a sampler calls the network, the noisiest first.

        Args:
            steps: Number of timesteps, 1 … num_steps.
            spacing: One of the three conventions in use (Lin et al. 2023, table 2). "leading"
                counts up from `steps_offset` in strides of num_steps // steps and never reaches the
                noisiest timesteps; "trailing" counts down from the last one; "linspace" includes
                both ends.
            steps_offset: The smallest timestep of "leading".
            rounded: Whether "linspace" is rounded to whole timesteps.

        Raises:
            ValueError: For steps outside 1 … num_steps, or an unknown spacing.
        """
        try:
            steps = index("" if isinstance(steps, bool) else steps)  # type: ignore[arg-type]
        except (TypeError, RuntimeError):  # a float, or a Tensor with several elements
            raise ValueError(f"steps is {reprlib.repr(steps)}; it must be a whole number") from None
        if not 1 <= steps <= self.num_steps:
            raise ValueError(f"steps is {reprlib.repr(steps)}; it must lie in 1 … {self.num_steps}")
        last = self.num_steps - 1
        times: Iterable[float]
        if spacing == "leading":
            stride = self.num_steps // steps
            # With steps = num_steps there is no room for the offset.
            first = min(steps_offset, last - (steps - 1) * stride)
            times = (first + i * stride for i in reversed(range(steps)))
        elif spacing == "trailing":
            times = (round(self.num_steps - i * self.num_steps / steps) - 1 for i in range(steps))
        elif spacing == "linspace":
            times = torch.linspace(0, last, steps, dtype=torch.float64).flip(0).tolist()
        else:
            raise ValueError(
                f"spacing is {reprlib.repr(spacing)}; it must be 'leading', 'trailing' or "
                "'linspace'"
            )
        return [round(t) if rounded else t for t in times]

    def path(
        self,
        steps: int,
        spacing: Spacing = "leading",
        final_sigma: FinalSigma = "min",
        steps_offset: int = 1,
        sigmas: Sigmas = "table",
        steps_in: StepsIn = "timestep",
    ) -> list[Point]:
        """The steps + 1 points of a sampler's path; the last is where its last step ends.

        Args:
            steps: Number of steps, 1 … num_steps.
            spacing: As in `timesteps`.
            final_sigma: Where the path ends. "min" is the table's smallest noise level, alphabar_0,
                with t = 0, as in Stable Diffusion's published DDIM (its set_alpha_to_one is false).
                "zero" is alpha = 1 and sigma = 0 with t = -1, before the table, as in DDPM.
            steps_offset: As in `timesteps`.
            sigmas: The noise levels sigma / alpha of the other points. "table": those at the
                timesteps. "karras": evenly spaced in the seventh root (Karras et al. 2022, eq. 5),
                between the first and the last timestep for a sampler that steps in sigma, over the
                whole table for one that steps in lambda. "uniform_lambda": evenly spaced in lambda
                over the whole table (Lu et al. 2022), for samplers that step in lambda.
            steps_in: The variable of the sampler's steps; each family has its own convention.
                "timestep": whole timesteps. "sigma" (Karras et al.): the same, but "linspace" is
                not rounded. "lambda" (DPM-Solver++, log(alpha / sigma)): "leading" and "linspace"
                compute one more point and drop it, because the path's end replaces it.

        Raises:
            ValueError: For an unknown value, or for sigmas that this kind of sampler does not have.
        """
        check_choice("final_sigma", final_sigma, FinalSigma)
        check_choice("sigmas", sigmas, Sigmas)
        check_choice("steps_in", steps_in, StepsIn)
        if sigmas not in sigmas_for(steps_in):
            raise ValueError(
                f"sigmas is {sigmas!r}; a sampler that steps in {steps_in} has "
                f"{' or '.join(map(repr, sigmas_for(steps_in)))}"
            )
        one_more = steps_in == "lambda" and spacing != "trailing"  # its last point is dropped
        if one_more and steps == self.num_steps:
            limit = f"1 … {steps - 1} for a sampler that steps in lambda"
            raise ValueError(f"steps is {steps}; it must lie in {limit}")
        times = self.timesteps(steps, spacing, steps_offset, rounded=steps_in != "sigma")
        if one_more:
            times = self.timesteps(steps + 1, spacing, steps_offset)
        if steps_in != "timestep" and spacing == "leading" and times[-1] != steps_offset:
            # The published schedulers call the network past the last timestep of its training.
            raise ValueError(
                f'steps is {steps}; with steps_offset {steps_offset}, "leading" spacing has no '
                f"room for them in the {self.num_steps} timesteps of a sampler that steps in "
                f"{steps_in}; choose fewer steps, or another spacing"
            )
        points = [Point(float(t), *self.at(t)) for t in times[:steps]]
        if steps_in != "timestep" and points[0].alpha == 0:
            points[0] = point_from_sigma(points[0].t, self.sigmas[-1])
        u = torch.linspace(0, 1, steps, dtype=torch.float64)
        if sigmas == "karras":
            levels = (
                [p.sigma / p.alpha for p in points] if steps_in == "sigma" else self.sigmas.flip(0)
            )
            high, low = levels[0] ** (1 / 7), levels[-1] ** (1 / 7)
            points = self.points_at(torch.lerp(high, low, u) ** 7, steps_in == "lambda")
        elif sigmas == "uniform_lambda":
            high, low = self.sigmas[[-1, 0]].log()  # -lambda
            points = self.points_at(torch.lerp(high, low, u).exp(), rounded=True)
        if final_sigma == "min":
            return [*points, Point(0.0, *self.at(0))]
        one = torch.ones((), dtype=torch.float64)
        return [*points, Point(-1.0, one, 1 - one)]

    def points_at(self, sigmas: Tensor, rounded: bool) -> list[Point]:
        """The points with these noise levels.

        Args:
            sigmas: Noise levels sigma / alpha, (n,).
            rounded: Whether to round the timesteps, which are interpolated linearly in
                log(sigma / alpha) from those of the table.
        """
        table = self.sigmas.log().numpy()
        times = np.interp(sigmas.log().numpy(), table, np.arange(self.num_steps))
        times = times.round() if rounded else times
        return [point_from_sigma(*each) for each in zip(times, sigmas, strict=True)]


def sigmas_for(steps_in: StepsIn) -> tuple[Sigmas, ...]:
    """The choices of `sigmas` for a sampler that steps in this variable."""
    if steps_in == "timestep":
        return ("table",)
    return ("table", "karras") if steps_in == "sigma" else get_args(Sigmas)


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ValueError unless the value is one of the Literal `choices`."""
    accepted = get_args(choices)
    if value not in accepted:
        raise ValueError(
            f"{name} is {reprlib.repr(value)}; it must be {', '.join(map(repr, accepted[:-1]))} or "
            f"{accepted[-1]!r}"
        )


def point_from_sigma(t: float, sigma: Tensor) -> Point:
    """The variance-preserving point at timestep t with this sigma / alpha."""
    alpha = 1 / (1 + sigma**2).sqrt()
    return Point(float(t), alpha, sigma * alpha)
