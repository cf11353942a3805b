"""Notebook 18: the learner's parts are the finished ones, and a slip in them is noticed."""

import contextlib
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from sdlearn import dreambooth, lora, lora_merging
from sdlearn.course import check
from sdlearn.course.figures import adapters as drawn
from sdlearn.course.grading.compare import Different
from sdlearn.course.widgets import AdapterWidget
from sdlearn.textual_inversion import NewRows
from tests.notebook_parts import folded_assertions, learnt

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "18-making-it-yours.ipynb"
NUMBERS = ("18.1", "18.2", "18.3", "18.4", "18.5")


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The learner's five answers, with a piece of their text replaced."""
    return learnt(
        NOTEBOOK, NUMBERS, ["import torch", "from torch import Tensor, nn"], change=change
    )


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter(rank, alpha, seed):
    down, up = normal(rank, 5, seed=seed), normal(7, rank, seed=seed + 1)
    return lora.Adapter({"0": lora.LowRank(down, up, alpha)})


def compared(names: dict) -> None:
    down, up, x = normal(3, 5), normal(7, 3, seed=1), normal(2, 4, 5, seed=2)
    check.same(names["LowRank"](5, 7, 3, 2.0), lora.LowRank(down.float(), up.float(), 2.0), x)
    assert not names["LowRank"](5, 7, 3, 2.0).up.any()
    check.same(names["prior_loss"], dreambooth.prior_loss, normal(7).square(), 3, 0.5)
    a, b = adapter(2, 1.0, 3), adapter(3, 6.0, 5)
    parts = [(u.down, u.up, u.alpha, s) for u, s in ((a.updates["0"], 0.7), (b.updates["0"], -1.5))]
    theirs = lora_merging.stack([(a, 0.7), (b, -1.5)]).updates["0"]
    for mine, wanted in zip(names["stacked"](parts), (theirs.down, theirs.up), strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-12)
    ids, embedded, rows = torch.tensor([[3, 4, 5, 6, 2, 4]]), normal(1, 6, 5), normal(2, 5, seed=9)
    mine, wanted = names["new_rows"](ids, embedded, 4, rows), NewRows(4, rows)(ids, embedded)
    assert torch.equal(mine, wanted)
    base, tuned = nn.Linear(5, 7).double(), nn.Linear(5, 7).double()
    pair = nn.Sequential(tuned), nn.Sequential(base)
    update = lora_merging.extract(*pair, rank=2, pattern=r"^0$").updates["0"]
    change = (tuned.weight - base.weight).detach()
    nearest = names["nearest"](change, 2)
    assert torch.allclose(nearest, update.weight(torch.float64), atol=1e-12)
    assert torch.linalg.matrix_rank(nearest) == 2


def test_its_parts_are_the_finished_ones():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(built())
    assert said.getvalue().count("same: ") == 2


@pytest.mark.parametrize(
    "change",
    [
        ("self.alpha / rank * (x", "self.alpha * (x"),
        ("torch.zeros(n_out, rank)", "torch.ones(n_out, rank)"),
        ("rank = self.down.shape[0]", "rank = self.down.shape[1]"),
        ("@ self.up.T", "@ self.up.T.abs()"),
        ("s * alpha / len(a) * b", "alpha / len(a) * b"),
        ("for a, _, _, _ in parts]", "for a, _, _, _ in parts[::-1]]"),
        ("place = ids - first", "place = ids - first - 1"),
        ("(place >= 0) & (place < len(rows))", "(place >= 0) & (place < 1)"),
        ("weight * losses[own:]", "losses[own:]"),
        ("losses[:own].mean()", "losses.mean()"),
        ("s[:rank] @ v[:rank]", "s[:rank].sqrt() @ v[:rank]"),
        ("u[:, :rank] * s[:rank] @ v[:rank]", "u[:, 1:rank] * s[1:rank] @ v[1:rank]"),
    ],
)
def test_a_slip_in_its_parts_is_noticed(change):
    with pytest.raises((Different, AssertionError)):
        compared(built(change))


def test_its_claims_are_asserted():
    assert folded_assertions(NOTEBOOK) >= 10


def test_its_figures_say_what_they_show():
    figure = drawn.low_rank_diagram(256, 128, 4)
    texts = [text.get_text() for text in figure.figure.axes[0].texts]
    assert "32,768 weights" in texts
    assert "1,536 weights, trained" in texts
    assert "1,536 weights together" in figure.words

    figure = drawn.losses([0.1, 0.3, 0.2, 0.4], {0: 0.25, 2: 0.125})
    assert figure.words.endswith("0.250 at 0, 0.125 at 2.")
    assert "between 0.100 and 0.300" in figure.words


def test_the_widget_over_all_its_controls(tiny_storybook):
    torch.manual_seed(0)
    sd = tiny_storybook
    adapters = {name: lora.Adapter.for_network(sd.unet, rank=2) for name in ("one", "two")}
    for each in adapters.values():
        for update in each.updates.values():
            nn.init.normal_(update.up)
    mixer = AdapterWidget(sd, adapters, "a red cat", steps=2)
    for name, slider in mixer.strengths.items():
        for value in (slider.min, slider.max):
            slider.value = value
            assert f"{name} {value:.1f}" in mixer.message.value
        slider.value = 0
    assert mixer.drawn.tobytes() == mixer.plain.tobytes()
    mixer.strengths["one"].value = 1
    assert mixer.drawn.tobytes() != mixer.plain.tobytes()
    assert mixer.alt.startswith("An image without the adapters and one with them.")
    assert not lora.attachments(sd.unet)
