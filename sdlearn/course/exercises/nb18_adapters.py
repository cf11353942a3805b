"""Exercises and quiz of notebook 18, making it yours."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal

# ----------------------------------------------------------------------- 18.1 a low-rank update


class LowRank(nn.Module):
    """The update of one linear layer, x -> (alpha / r) · B A x."""

    def __init__(self, n_in: int, n_out: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, n_in) / n_in**0.5)  # A
        self.up = nn.Parameter(torch.zeros(n_out, rank))  # B
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """x (…, n_in) -> (…, n_out)."""
        rank = self.down.shape[0]
        return self.alpha / rank * (x @ self.down.T @ self.up.T)


def update_cases(rng: Generator) -> Iterator[Case]:
    for lead, n_in, n_out, rank, alpha in (
        ((2, 3), 5, 7, 2, 1.0),
        ((4,), 6, 3, 3, 12.0),
        ((1, 2, 3), 4, 4, 4, 6.0),
        ((3,), 5, 5, 1, 0.5),
        ((2,), 8, 6, 5, 5.0),
    ):
        yield Case((normal(rng, *lead, n_in),), (n_in, n_out, rank, alpha))


UPDATE = Exercise(
    number="18.1",
    title="A low-rank update",
    minutes=8,
    difficulty=1,
    core=True,
    solution=LowRank,
    cases=update_cases,
)

# --------------------------------------------------------------------------- 18.2 several in one


def stacked(parts: list[tuple[Tensor, Tensor, float, float]]) -> tuple[Tensor, Tensor]:
    """Parts (A, B, alpha, strength) of one layer -> A and B of a single update."""
    down = torch.cat([a for a, _, _, _ in parts])
    up = torch.cat([s * alpha / len(a) * b for a, b, alpha, s in parts], dim=1)
    return down, up


def part_cases(rng: Generator) -> Iterator[Case]:
    for n_in, n_out, parts in (
        (5, 7, ((2, 1.0, 0.5), (3, 6.0, 1.0))),
        (4, 4, ((4, 4.0, 1.0), (4, 2.0, -0.7), (4, 8.0, 1.3))),
        (6, 3, ((2, 4.0, 0.8),)),
        (3, 5, ((1, 1.0, 0.0), (2, 2.0, 1.0))),
    ):
        rows = [
            (normal(rng, rank, n_in), normal(rng, n_out, rank), alpha, strength)
            for rank, alpha, strength in parts
        ]
        yield Case((rows,))


STACKED = Exercise(
    number="18.2",
    title="Two adapters in one",
    minutes=10,
    difficulty=2,
    core=True,
    solution=stacked,
    cases=part_cases,
)

# ------------------------------------------------------------------------- 18.3 a word of its own


def new_rows(ids: Tensor, embedded: Tensor, first: int, rows: Tensor) -> Tensor:
    """ids (b, n), embedded (b, n, d), rows (k, d) -> (b, n, d)."""
    place = ids - first
    own = (place >= 0) & (place < len(rows))
    return torch.where(own[..., None], rows[place.where(own, 0)], embedded)


def token_cases(rng: Generator) -> Iterator[Case]:
    for b, n, d, first, k in ((2, 6, 3, 4, 2), (1, 5, 4, 6, 1), (3, 4, 4, 3, 3), (2, 7, 2, 0, 2)):
        ids = torch.randint(0, first + k + 3, (b, n), generator=rng)
        ids[0, :2] = torch.tensor([first, first + k - 1])
        ids[-1, -2:] = torch.tensor([first + k, max(0, first - 1)])
        yield Case((ids, normal(rng, b, n, d), first, normal(rng, k, d)))


ROWS = Exercise(
    number="18.3",
    title="The vectors of a new word",
    minutes=10,
    difficulty=2,
    core=True,
    solution=new_rows,
    cases=token_cases,
)

# ------------------------------------------------------------------------- 18.4 prior preservation


def prior_loss(losses: Tensor, own: int, weight: float) -> Tensor:
    """losses (b,), the first `own` from your own images -> a scalar."""
    return losses[:own].mean() + weight * losses[own:].mean()


def loss_cases(rng: Generator) -> Iterator[Case]:
    for b, own, weight in ((8, 4, 0.5), (6, 2, 1.0), (5, 4, 2.0), (7, 1, 0.1), (4, 3, 0.0)):
        yield Case((normal(rng, b).square(), own, weight))


PRIOR = Exercise(
    number="18.4",
    title="Prior preservation",
    minutes=5,
    difficulty=1,
    core=True,
    solution=prior_loss,
    cases=loss_cases,
)

# ------------------------------------------------------------------------------- 18.5 extraction


def nearest(change: Tensor, rank: int) -> Tensor:
    """change (n_out, n_in) -> the nearest matrix of this rank, (n_out, n_in)."""
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


def change_cases(rng: Generator) -> Iterator[Case]:
    for n_out, n_in, rank in ((5, 7, 2), (6, 4, 1), (5, 5, 3), (4, 6, 4), (8, 3, 2)):
        yield Case((normal(rng, n_out, n_in), rank))
    yield Case((normal(rng, 6, 2) @ normal(rng, 2, 5), 2))


NEAREST = Exercise(
    number="18.5",
    title="A LoRA from a fine-tuned model",
    minutes=10,
    difficulty=2,
    core=True,
    solution=nearest,
    cases=change_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(__name__, UPDATE, STACKED, ROWS, PRIOR, NEAREST)

# --------------------------------------------------------------------------------------- the quiz
