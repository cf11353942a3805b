"""Intervals over prompts, and pairs of models."""

import math
import random

import pytest

from sdlearn.evaluation.resampling import bootstrap_mean, compare_paired, mcnemar


def truths(n: int, seed: int, rate: float = 0.7) -> list[list[bool]]:
    rng = random.Random(seed)
    return [[rng.random() < rate] for _ in range(n)]


def test_the_interval_of_a_mean_has_the_width_that_its_variance_gives() -> None:
    rng = random.Random(0)
    values = [[rng.gauss(5, 2)] for _ in range(400)]
    found = bootstrap_mean(values)
    flat = [row[0] for row in values]
    mean = sum(flat) / 400
    error = (sum((x - mean) ** 2 for x in flat) / 400) ** 0.5 / 20
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.02)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.02)
    assert bootstrap_mean(values) == found


def test_prompts_are_drawn_and_not_images() -> None:
    """Four equal images of a prompt are no more evidence than one."""
    once = [[float(row[0])] for row in truths(100, 1)]
    four = [row * 4 for row in once]
    assert bootstrap_mean(four) == pytest.approx(bootstrap_mean(once))
    apart = bootstrap_mean([[row[0]] for row in four for _ in range(4)])
    assert apart.high - apart.low < 0.6 * (bootstrap_mean(four).high - bootstrap_mean(four).low)


def test_every_value_counts_the_same() -> None:
    assert bootstrap_mean([[1.0], [0.0, 0.0, 0.0], []]).value == 0.25
    with pytest.raises(ValueError, match="no values to resample"):
        bootstrap_mean([[], []])
    with pytest.raises(ValueError, match="draws is 0"):
        bootstrap_mean([[1.0]], draws=0)


def test_pairs_need_fewer_prompts() -> None:
    """The second model is the first with one more mistake in ten: 50 prompts show it, in pairs."""
    first = truths(50, 2, rate=0.7)
    second = [[row[0] and k % 8 > 0] for k, row in enumerate(first)]
    found = compare_paired(first, second)
    lost = sum(a[0] and not b[0] for a, b in zip(first, second, strict=True))
    assert found.paired.value == pytest.approx(lost / 50)
    assert (found.better, found.worse) == (lost, 0)
    assert found.paired.low > 0
    assert found.unpaired.low < 0 < found.unpaired.high
    assert found.first.low < found.second.high  # their own intervals overlap
    assert found.p == mcnemar(lost, 0)


def test_without_correlation_pairs_gain_nothing() -> None:
    found = compare_paired(truths(2000, 3), truths(2000, 4))
    widths = [x.high - x.low for x in (found.paired, found.unpaired)]
    assert widths[0] == pytest.approx(widths[1], rel=0.12)
    theory = 2 * 1.96 * math.sqrt(2 * 0.7 * 0.3 / 2000)
    assert widths[1] == pytest.approx(theory, rel=0.1)


def test_a_model_against_itself_and_in_the_other_order() -> None:
    same = compare_paired(truths(40, 5), truths(40, 5))
    assert same.paired == (0, 0, 0)
    assert same.unpaired.low < 0 < same.unpaired.high
    assert same.p == 1
    a, b = truths(60, 6), truths(60, 7, 0.4)
    one, other = compare_paired(a, b), compare_paired(b, a)
    assert other.paired.value == pytest.approx(-one.paired.value)
    assert (other.better, other.worse, other.p) == (one.worse, one.better, one.p)


def test_several_images_of_a_prompt_are_one_vote() -> None:
    first = [[True, True], [True, False], [False, False], []]
    second = [[True, False], [False, False], [True, True], []]
    found = compare_paired(first, second)
    assert (found.better, found.worse) == (2, 1)
    assert found.p == 1
    assert found.first.rate == found.second.rate == 0.5
    with pytest.raises(ValueError, match="different prompts, or different numbers of them"):
        compare_paired(first, second[:-1])
    with pytest.raises(ValueError, match="different numbers"):
        compare_paired([[True]], [[True, False]])


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(1, 4) == 2 * (1 + 5) / 32
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1
    assert 0 < mcnemar(1500, 1000) < 1e-20
    with pytest.raises(ValueError, match="worse is -1"):
        mcnemar(3, -1)
