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

import torch
from torch import Tensor

Spacing = Literal["leading", "trailing", "linspace"]
Final = Literal["first", "clean"]
Kind = Literal["scaled_linear", "linear", "cosine"]


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
            ratio = (1 / self.alphas_cumprod - 1).sqrt()
            ratio_t = torch.lerp(ratio[below], ratio[above], t - below)
            alphabar = torch.where(between, 1 / (1 + ratio_t**2), alphabar)
        return alphabar.sqrt(), (1 - alphabar).sqrt()

    def snr(self, t: float | Tensor) -> Tensor:
        """Signal-to-noise ratio alpha² / sigma² at t, float64, of the shape of t."""
        alpha, sigma = self.at(t)
        return (alpha / sigma) ** 2

    def times(self, steps: int, spacing: Spacing = "leading", offset: int = 1) -> list[int]:
        """The `steps` times that a sampler shows the network, latest (noisiest) first.

        Three conventions are in use (Lin et al. 2023, table 2): "leading" counts up from `offset`
        in strides of num_steps // steps and so never sees the noisiest times; "trailing" counts
        down from the last time; "linspace" includes both ends.
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
        return [round(t) for t in times]

    def path(
        self,
        steps: int,
        spacing: Spacing = "leading",
        final: Final = "first",
        offset: int = 1,
    ) -> list[Point]:
        """The steps + 1 points of a sampler's way; the last is where its last step ends.

        final: "first" ends at alphabar_0, as Stable Diffusion's published DDIM does (its
        set_alpha_to_one is false), with t = 0; "clean" ends at alpha = 1, sigma = 0, as DDPM does,
        one before the table, t = -1. Raises ValueError for what it cannot offer.
        """
        points = [Point(float(t), *self.at(t)) for t in self.times(steps, spacing, offset)]
        if final == "first":
            end = Point(0.0, *self.at(0))
        elif final == "clean":
            one = torch.ones((), dtype=torch.float64)
            end = Point(-1.0, one, 1 - one)
        else:
            raise ValueError(f"final {final!r} is not known: it is 'first' or 'clean'")
        return [*points, end]
