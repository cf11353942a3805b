"""DreamBooth's loss: prior preservation as a sum of two means, and as a weighted mean of rows."""

import math

import pytest
import torch

from sdlearn import dreambooth


def some_losses(b: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(b, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("own", [1, 2, 3, 5])
def test_prior_loss_is_the_explicit_sum(own: int, weight: float) -> None:
    losses = some_losses()
    values = losses.tolist()
    expected = sum(values[:own]) / own + weight * sum(values[own:]) / (6 - own)

    loss = dreambooth.prior_loss(losses, own, weight)

    assert loss.shape == ()
    assert math.isclose(loss.item(), expected, rel_tol=1e-14)
    (gradient,) = torch.autograd.grad(loss, losses)
    assert gradient.tolist() == pytest.approx([1 / own] * own + [weight / (6 - own)] * (6 - own))


def test_weight_0_and_no_class_images_are_plain_fine_tuning() -> None:
    losses = some_losses()
    assert dreambooth.prior_loss(losses, 4, 0.0) == losses[:4].mean()
    for weight in (0.0, 1.0, 7.0):
        assert dreambooth.prior_loss(losses, 6, weight) == losses.mean()
    assert dreambooth.prior_loss(losses, 2) == dreambooth.prior_loss(losses, 2, 1.0)


@pytest.mark.parametrize(("own", "b"), [(1, 2), (3, 6), (5, 6), (6, 6), (1, 1)])
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.7])
def test_row_weights_give_the_same_loss_in_any_number_of_parts(
    own: int, b: int, weight: float
) -> None:
    losses = some_losses(b)
    weighted = dreambooth.row_weights(own, b, weight) * losses
    expected = dreambooth.prior_loss(losses, own, weight).item()
    assert math.isclose(weighted.mean().item(), expected, rel_tol=1e-14)
    # What N processes average, or the parts of an accumulated batch: means over equal parts.
    for n in (n for n in range(1, b + 1) if b % n == 0):
        parts = weighted.view(n, -1).mean(dim=1)
        assert math.isclose(parts.mean().item(), expected, rel_tol=1e-14)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: dreambooth.prior_loss(some_losses(), 0), "own is 0; accepted: 1 to 6"),
        (lambda: dreambooth.prior_loss(some_losses(), 7), "own is 7; accepted: 1 to 6"),
        (lambda: dreambooth.prior_loss(some_losses().view(2, 3), 1), r"the shape \(2, 3\)"),
        (
            lambda: dreambooth.prior_loss(some_losses(), 2, -1.0),
            "weight is -1.0; accepted: a finite",
        ),
        (lambda: dreambooth.prior_loss(some_losses(), 2, math.nan), "weight is nan"),
        (lambda: dreambooth.row_weights(3, 2), "own is 3; accepted: 1 to 2"),
        (lambda: dreambooth.own_in_batch(5), "batch is 5; accepted with prior preservation: even"),
        (lambda: dreambooth.own_in_batch(0), "batch is 0"),
        (lambda: dreambooth.class_prompt("a cat", "<toby>"), "has '<toby>' among its words"),
        (lambda: dreambooth.class_prompt("a <toby>s cat", "<toby>"), "among its words"),
        (lambda: dreambooth.class_prompt("<toby>", "<toby>"), "also names the class"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, part: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=part):
        call()


def test_half_of_a_batch_is_the_learners_own() -> None:
    assert [dreambooth.own_in_batch(b) for b in (2, 4, 16)] == [1, 2, 8]


def test_the_class_prompt_is_the_prompt_without_the_word() -> None:
    assert dreambooth.class_prompt("a <toby> cat on the sand", "<toby>") == "a cat on the sand"
