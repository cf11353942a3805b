"""Exercises and quiz of notebook 19, after Stable Diffusion."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal


def smooth(rng: Generator, *shape: int) -> Callable[[Tensor, Any], Tensor]:
    """Return velocity(x, t), of the shape of x: each row depends only on its own x and t."""
    weights, slope = normal(rng, *shape), float(normal(rng, 1))

    def velocity(x: Tensor, t: Any) -> Tensor:
        t = torch.as_tensor(t, dtype=x.dtype)
        if t.ndim:
            t = t.view(-1, *[1] * (x.ndim - 1))
        return torch.tanh(weights * x + slope * t) + t**2

    return velocity


# --------------------------------------------------------------------------------- 19.1 the loss


def rectified_flow_loss(
    velocity: "Callable",
    x_0: Tensor,
    eps: Tensor,
    t: Tensor,
) -> Tensor:
    """velocity(x_t, t); x_0 and eps (b, ...), t (b,) -> the loss, a scalar."""
    times = t.view(-1, *[1] * (x_0.ndim - 1))
    x_t = (1 - times) * x_0 + times * eps
    return (velocity(x_t, t) - (eps - x_0)).square().mean()


def loss_cases(rng: Generator) -> Iterator[Case]:
    for shape in ((5, 2), (3, 4, 5, 6), (1, 2, 3, 3), (4, 4, 4, 4)):
        t = torch.rand(shape[0], generator=rng, dtype=torch.float64)
        yield Case((smooth(rng, *shape[1:]), normal(rng, *shape), 2 * normal(rng, *shape), t))


LOSS = Exercise(
    number="19.1",
    title="The loss of rectified flow",
    minutes=6,
    difficulty=1,
    core=True,
    solution=rectified_flow_loss,
    cases=loss_cases,
)

# ------------------------------------------------------------------------------ 19.2 the sampler


def flow_euler(velocity: "Callable", x: Tensor, times: list) -> Tensor:
    """velocity(x, t) -> dx/dt; x at the first time -> x at the last."""
    for t, s in pairwise(times):
        x = x + (s - t) * velocity(x, t)
    return x


def euler_cases(rng: Generator) -> Iterator[Case]:
    for shape, times in (
        ((4, 2), [1.0, 0.5, 0.0]),
        ((2, 4, 3, 5), [0.936, 0.8, 0.5, 0.1, 0.0]),
        ((1, 2, 4, 4), [0.9, 0.3]),
        ((3, 2), [1.0, 0.95, 0.6, 0.55, 0.2]),
    ):
        yield Case((smooth(rng, *shape[1:]), normal(rng, *shape), times))


EULER = Exercise(
    number="19.2",
    title="Euler's method",
    minutes=6,
    difficulty=1,
    core=True,
    solution=flow_euler,
    cases=euler_cases,
)

# ----------------------------------------------------------------- 19.3 the change of variables


def velocity_of_noise(
    network: "Callable",
    x: Tensor,
    t: float,
    timestep: Tensor,
) -> Tensor:
    """network(z, timestep) -> noise; x (b, c, h, w) at time t < 1 -> dx/dt."""
    r = ((1 - t) ** 2 + t**2) ** 0.5
    eps = network(x / r, timestep)
    return (eps - x) / (1 - t)


def noise_cases(rng: Generator) -> Iterator[Case]:
    shapes = (2, 4, 3, 5), (1, 4, 4, 4), (3, 2, 4, 3), (2, 3)
    for shape, t in zip(shapes, (0.3, 0.936, 0.6, 0.0), strict=True):
        steps = torch.randint(0, 1000, (shape[0],), generator=rng).double() / 1000
        yield Case((smooth(rng, *shape[1:]), normal(rng, *shape), t, steps))


NOISE = Exercise(
    number="19.3",
    title="A velocity from a noise prediction",
    minutes=10,
    difficulty=2,
    core=True,
    solution=velocity_of_noise,
    cases=noise_cases,
)

# ------------------------------------------------------------------------- 19.4 lines to learn


def line_points(
    first: Tensor,
    last: Tensor,
    t_first: Tensor,
    t_last: Tensor,
    s: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """States (b, c, h, w) at both ends, times and s (b,) -> x, t, velocity."""
    t = t_first + s * (t_last - t_first)
    x = first + s.view(-1, 1, 1, 1) * (last - first)
    velocity = (last - first) / (t_last - t_first).view(-1, 1, 1, 1)
    return x, t, velocity


def line_cases(rng: Generator) -> Iterator[Case]:
    for b, c, h, w in ((3, 4, 2, 5), (1, 2, 3, 4), (4, 4, 4, 4)):
        ends = torch.rand(2, b, generator=rng, dtype=torch.float64)
        t_first, t_last = 0.5 + 0.45 * ends[0], 0.45 * ends[1]
        s = torch.rand(b, generator=rng, dtype=torch.float64)
        yield Case((normal(rng, b, c, h, w), normal(rng, b, c, h, w), t_first, t_last, s))


LINES = Exercise(
    number="19.4",
    title="What the student learns",
    minutes=8,
    difficulty=2,
    core=True,
    solution=line_points,
    cases=line_cases,
    trained=False,
)

# --------------------------------------------------------------------------------- 19.5 adaLN-Zero


class AdaLNZeroMLP(nn.Module):
    """An MLP with adaLN-Zero and a residual connection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 3 * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        gelu = nn.GELU(approximate="tanh")
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), gelu, nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Tokens x (b, n, dim) and the conditioning emb (b, dim) -> (b, n, dim)."""
        shift, scale, gate = self.linear(F.silu(emb))[:, None].chunk(3, dim=-1)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return x + gate * self.ff(h)


def adaln_cases(rng: Generator) -> Iterator[Case]:
    for b, n, dim in ((2, 5, 6), (1, 3, 4), (4, 4, 4), (3, 7, 5)):
        yield Case((3 * normal(rng, b, n, dim) + 1, normal(rng, b, dim)), (dim,))


ADALN = Exercise(
    number="19.5",
    title="adaLN-Zero",
    minutes=12,
    difficulty=2,
    core=True,
    solution=AdaLNZeroMLP,
    cases=adaln_cases,
)

# ----------------------------------------------------------------------------- 19.6 joint attention


class JointAttention(nn.Module):
    """Joint attention over image and text tokens, each with its own projections."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.add_q_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_k, self.add_k_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_v, self.add_v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """(b, n, heads * d) -> (b, heads, n, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Image x (b, n, dim), text context (b, m, dim) -> both, in the same shapes."""
        q, k, v = (self.split(to(x)) for to in (self.to_q, self.to_k, self.to_v))
        add = self.add_q_proj, self.add_k_proj, self.add_v_proj
        c_q, c_k, c_v = (self.split(to(context)) for to in add)
        q = torch.cat([q, c_q], dim=2)
        k = torch.cat([k, c_k], dim=2)
        v = torch.cat([v, c_v], dim=2)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        image, text = out.split([x.shape[1], context.shape[1]], dim=1)
        return self.to_out[0](image), self.to_add_out(text)


def joint_cases(rng: Generator) -> Iterator[Case]:
    for b, n, m, dim, heads in ((2, 5, 3, 6, 2), (1, 3, 7, 8, 4), (4, 4, 4, 4, 2), (3, 2, 5, 6, 1)):
        yield Case((normal(rng, b, n, dim), normal(rng, b, m, dim)), (dim, heads))


JOINT = Exercise(
    number="19.6",
    title="Joint attention",
    minutes=18,
    difficulty=3,
    core=True,
    solution=JointAttention,
    cases=joint_cases,
    given=("__init__", "split"),
)

# ------------------------------------------------------------------------------ 19.7 shifted times


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Times t in 0 ... 1, (n,) -> the times shifted towards noise, (n,)."""
    return shift * t / (1 + (shift - 1) * t)


def shift_cases(rng: Generator) -> Iterator[Case]:
    for n, shift in ((5, 3.0), (1, 0.5), (4, 1.0), (7, 6.0)):
        yield Case((torch.rand(n, generator=rng, dtype=torch.float64), shift))
    yield Case((torch.linspace(1, 0, 5, dtype=torch.float64), 2.0))


SHIFT = Exercise(
    number="19.7",
    title="Shifted times",
    minutes=10,
    difficulty=2,
    core=True,
    solution=shift_time,
    cases=shift_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(__name__, LOSS, EULER, NOISE, LINES, ADALN, JOINT, SHIFT)

# --------------------------------------------------------------------------------------- the quiz
