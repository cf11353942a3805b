"""The noise schedule: how much of the latent and how much noise there is at each time.

The forward process of DDPM (Ho et al. 2020, eq. 4) has a closed form: a clean latent z_0 becomes

    z_t = alpha_t z_0 + sigma_t eps,    alpha_t = sqrt(alphabar_t),  sigma_t = sqrt(1 - alphabar_t)

so the whole schedule is one table of alphabar over t = 0 … 999. A *path* picks from it the few
points that a sampler visits, from almost pure noise to (almost) none.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Tensor

Spacing = Literal["leading", "trailing", "linspace"]
Final = Literal["first", "clean"]
Grid = Literal["t", "sigma", "lambda"]
Kind = Literal["scaled_linear", "linear", "cosine"]
Prediction = Literal["noise", "velocity"]
# What may be written for it: the same two, or their names in published files.
Predicts = Literal["noise", "velocity", "epsilon", "v_prediction"]
PUBLISHED_PREDICTIONS: dict[str, Prediction] = {"epsilon": "noise", "v_prediction": "velocity"}


def prediction_type(predicts: str) -> Prediction:
    """What a network's output means, "noise" or "velocity", from that name or the published one.

    Published files say "epsilon" for the noise and "v_prediction" for the velocity.

    Raises:
        ValueError: for another value of predicts.
    """
    for published, prediction in PUBLISHED_PREDICTIONS.items():
        if predicts in (prediction, published):
            return prediction
    raise ValueError(
        f"predicts is {predicts!r}; it must be 'noise' or 'velocity', which published files call "
        "'epsilon' and 'v_prediction'"
    )


class Point(NamedTuple):
    """A place on the way from noise to picture: z_t = alpha z_0 + sigma eps.

    t: the time that the network is shown; alpha, sigma: float64 scalars on the CPU (a scalar
    never changes the type or the device of the latent that it multiplies).
    """

    t: float
    alpha: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """The table t -> (alpha, sigma); the defaults are those of every Stable Diffusion.

    kind: "scaled_linear" (linear in sqrt(beta), from Rombach et al.'s code), "linear" (Ho et al.
    2020) or "cosine" (Nichol and Dhariwal 2021, which has no use for the two betas).
    zero_terminal_snr: shift sqrt(alphabar) so that the last entry is pure noise (Lin et al. 2023,
    algorithm 1); it needs a network that predicts velocity, and trailing spacing.
    """

    num_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    kind: Kind = "scaled_linear"
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("scaled_linear", "linear", "cosine"):
            raise ValueError(
                f"kind {self.kind!r} is not a schedule: it is 'scaled_linear', 'linear' or 'cosine'"
            )

    @cached_property
    def betas(self) -> Tensor:
        """The variance added by each single step, (num_steps,) float64."""
        if self.kind == "cosine":
            edges = torch.arange(self.num_steps + 1, dtype=torch.float64) / self.num_steps
            alphabar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
            return (1 - alphabar[1:] / alphabar[:-1]).clamp(max=0.999)
        power = 0.5 if self.kind == "scaled_linear" else 1.0
        ends = self.beta_start**power, self.beta_end**power
        return torch.linspace(*ends, self.num_steps, dtype=torch.float64) ** (1 / power)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """alphabar_t, the share of the clean latent's variance left at t, (num_steps,) float64."""
        alphabar = torch.cumprod(1 - self.betas, dim=0)
        if self.zero_terminal_snr:
            alpha = alphabar.sqrt()
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
            alphabar = alpha**2
        return alphabar

    @cached_property
    def ratios(self) -> Tensor:
        """sigma_t / alpha_t, which Karras et al. (2022) call sigma, (num_steps,) float64.

        Where alphabar ends at 0 the last entry is not infinite: the published samplers that step
        in this ratio put 2^-24 for that one alphabar.
        """
        alphabar = self.alphas_cumprod.clone()
        if self.zero_terminal_snr:
            alphabar[-1] = 2.0**-24
        return (1 / alphabar - 1).sqrt()

    def at(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at t in 0 … num_steps - 1, float64 on the CPU, of the shape of t.

        Between two entries of the table sigma / alpha is interpolated linearly, as the published
        samplers with fractional times do. Raises ValueError outside the table.
        """
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if not ((t >= 0) & (t <= self.num_steps - 1)).all():
            raise ValueError(f"t is {t.tolist()}, outside the table's 0 … {self.num_steps - 1}")
        below, above = t.floor().long(), t.ceil().long()
        alphabar = self.alphas_cumprod[below]
        between = below != above
        if between.any():
            ratio = torch.lerp(self.ratios[below], self.ratios[above], t - below)
            alphabar = torch.where(between, 1 / (1 + ratio**2), alphabar)
        return alphabar.sqrt(), (1 - alphabar).sqrt()

    def snr(self, t: float | Tensor) -> Tensor:
        """Signal-to-noise ratio alpha² / sigma² at t, float64, of the shape of t."""
        alpha, sigma = self.at(t)
        return (alpha / sigma) ** 2

    def times(
        self, steps: int, spacing: Spacing = "leading", offset: int = 1, whole: bool = True
    ) -> list[float]:
        """The `steps` times that a sampler shows the network, latest (noisiest) first.

        Three conventions are in use (Lin et al. 2023, table 2): "leading" counts up from `offset`
        in strides of num_steps // steps and so never sees the noisiest times; "trailing" counts
        down from the last time; "linspace" includes both ends, rounded unless `whole` is False.
        Raises ValueError for steps outside 1 … num_steps and for an unknown spacing.
        """
        if isinstance(steps, bool) or not isinstance(steps, SupportsIndex):
            raise ValueError(f"steps is {steps!r}; it must be a whole number")
        if not 1 <= steps <= self.num_steps:
            raise ValueError(f"steps is {steps}; it must lie in 1 … {self.num_steps}")
        last = self.num_steps - 1
        times: Iterable[float]
        if spacing == "leading":
            stride = self.num_steps // steps
            # As many steps as the table is long leave no room for the offset.
            first = min(offset, last - (steps - 1) * stride)
            times = (first + i * stride for i in reversed(range(steps)))
        elif spacing == "trailing":
            times = (round(self.num_steps - i * self.num_steps / steps) - 1 for i in range(steps))
        elif spacing == "linspace":
            times = torch.linspace(0, last, steps, dtype=torch.float64).flip(0).tolist()
        else:
            raise ValueError(
                f"spacing {spacing!r} is not known: it is 'leading', 'trailing' or 'linspace'"
            )
        return [round(t) if whole else t for t in times]

    def path(
        self,
        steps: int,
        spacing: Spacing = "leading",
        final: Final = "first",
        offset: int = 1,
        grid: Grid = "t",
        karras: bool = False,
        lu: bool = False,
    ) -> list[Point]:
        """The steps + 1 points of a sampler's way; the last is where its last step ends.

        final: "first" ends at alphabar_0, as Stable Diffusion's published DDIM does (its
        set_alpha_to_one is false), with t = 0; "clean" ends at alpha = 1, sigma = 0, as DDPM does,
        one before the table, t = -1.
        grid: what the sampler steps in, for each family has its convention. "t": whole times, as
        given by `times`. "sigma", the samplers of Karras et al.: the same, but linspace is not
        rounded. "lambda", DPM-Solver++ in log(alpha / sigma): leading and linspace place one point
        more and drop the last, for the end of the path is that point.
        karras: as many points of `karras` in place of these, from the first to the last of them on
        the "sigma" grid, over the whole table on the "lambda" grid, never on the "t" grid.
        lu: on the "lambda" grid only, as many points evenly in lambda over the whole table (Lu et
        al. 2022).
        Raises ValueError for what it cannot offer.
        """
        if final not in ("first", "clean"):
            raise ValueError(f"final {final!r} is not known: it is 'first' or 'clean'")
        if grid not in ("t", "sigma", "lambda"):
            raise ValueError(f"grid {grid!r} is not known: it is 't', 'sigma' or 'lambda'")
        if karras and grid == "t":
            raise ValueError("karras is true; only the grids 'sigma' and 'lambda' have such points")
        if lu and (grid != "lambda" or karras):
            why = "only the grid 'lambda' has such points" if grid != "lambda" else "karras is, too"
            raise ValueError(f"lu is true; {why}")
        times = self.times(steps, spacing, offset, whole=grid != "sigma")
        if grid == "lambda" and spacing != "trailing":
            if steps == self.num_steps:
                raise ValueError(f"steps is {steps}; it must lie in 1 … {steps - 1} on this grid")
            times = self.times(steps + 1, spacing, offset)[:-1]

        points = [Point(float(t), *self.at(t)) for t in times]
        if grid != "t" and points[0].alpha == 0:
            points[0] = with_ratio(points[0].t, self.ratios[-1])
        if karras:
            ratios = [p.sigma / p.alpha for p in points] if grid == "sigma" else self.ratios.flip(0)
            points = self.karras(steps, ratios[0], ratios[-1], whole=grid == "lambda")
        if lu:
            fall = torch.linspace(0, 1, steps, dtype=torch.float64)
            high, low = self.ratios[[-1, 0]].log()  # -lambda
            points = self.with_ratios(torch.lerp(high, low, fall).exp(), whole=True)
        if final == "first":
            return [*points, Point(0.0, *self.at(0))]
        one = torch.ones((), dtype=torch.float64)
        return [*points, Point(-1.0, one, 1 - one)]

    def karras(self, steps: int, high: Tensor, low: Tensor, whole: bool) -> list[Point]:
        """Points whose sigma / alpha falls evenly in its seventh root (Karras et al. 2022, eq. 5).

        high, low: sigma / alpha of the first and the last.
        """
        fall = torch.linspace(0, 1, steps, dtype=torch.float64)
        return self.with_ratios(torch.lerp(high ** (1 / 7), low ** (1 / 7), fall) ** 7, whole)

    def with_ratios(self, ratios: Tensor, whole: bool) -> list[Point]:
        """The points of these sigma / alpha, (n,).

        The network is shown the time at which the table has the point's ratio, log-linear between
        two entries, rounded where `whole`.
        """
        table = self.ratios.log().numpy()
        times = np.interp(ratios.log().numpy(), table, np.arange(self.num_steps))
        shown = times.round() if whole else times
        return [with_ratio(*each) for each in zip(shown, ratios, strict=True)]


def with_ratio(t: float, ratio: Tensor) -> Point:
    """The variance-preserving point with this sigma / alpha."""
    alpha = 1 / (1 + ratio**2).sqrt()
    return Point(float(t), alpha, ratio * alpha)
