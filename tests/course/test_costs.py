"""The measurements of a call: time, memory kept for the backward pass, operations."""

import time

import torch
import torch.nn.functional as F
from torch import nn

from sdlearn.course.costs import cpu_seconds, kept_megabytes, operations


def test_seconds_are_those_of_the_fastest_run_after_the_first(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 13.0, 20.0, 22.0, 30.0, 34.0])
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    calls = []
    assert cpu_seconds(lambda: calls.append(1), repeats=3) == 2.0
    assert len(calls) == 4


def test_memory_counts_what_is_kept_once_and_no_weights():
    network = nn.Linear(1000, 500)
    x = torch.randn(250, 1000)
    # The input is kept for the gradient of the weights, and nothing else.
    assert kept_megabytes(lambda: network(x), network) == 250 * 1000 * 4 / 1e6
    # Two layers keep the same input; the result of the exponential is kept as well.
    two = nn.ModuleList([nn.Linear(1000, 500), nn.Linear(1000, 500)])
    kept = kept_megabytes(lambda: (two[0](x) + two[1](x)).exp(), two)
    assert kept == (250 * 1000 + 250 * 500) * 4 / 1e6


def test_operations_count_a_multiplication_and_an_addition_as_two():
    with torch.device("meta"):
        network = nn.Conv2d(4, 8, 3, padding=1)
    counted = operations(network, (2, 4, 10, 12))
    assert counted == (2 * 9 * 4 * 8 * 2 * 10 * 12, 0)


def test_operations_of_attention_are_the_two_products_between_positions():
    def call(x):
        return F.linear(F.scaled_dot_product_attention(x, x, x), torch.empty(6, 6, device="meta"))

    total, attention = operations(call, (1, 3, 50, 6))
    assert attention == 2 * 2 * 3 * 50 * 50 * 6
    assert total - attention == 2 * 3 * 50 * 6 * 6
