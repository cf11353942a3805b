"""What several processes compute together, against one process with the whole batch, in float64."""

import pytest
import torch
from torch import nn

from sdlearn import distributed
from sdlearn.clip import contrastive_loss
from tests.processes import torchrun
from tests.share_batch import network, whole_batch


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What the two processes found."""
    place = tmp_path_factory.mktemp("two")
    done = torchrun(2, "-m", "tests.share_batch", str(place))
    if "Signal 6 (SIGABRT)" in done.stderr:  # gloo's threads at the exit of a busy machine
        done = torchrun(2, "-m", "tests.share_batch", str(place))
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(place / f"{rank}.pt") for rank in (0, 1)]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_each_process_keeps_its_rows_and_all_rows_are_gathered_in_order(found) -> None:
    x, _ = whole_batch()
    for rank in (0, 1):
        assert torch.equal(found[rank]["rows"], x[3 * rank : 3 * rank + 3])
        assert torch.equal(found[rank]["gathered"], x)
        assert found[rank]["refused"] == (
            "the batch has 5 rows; accepted: multiples of 2, the number of processes"
        )


def test_averaged_gradients_of_a_mean_are_those_of_the_whole_batch_and_of_ddp(found) -> None:
    x, y = whole_batch()
    model = network()
    (model(x) - y).square().mean().backward()
    for rank in (0, 1):
        same(found[rank]["mean"], [p.grad for p in model.parameters()])
        same(found[rank]["mean"], found[rank]["ddp"])


def test_a_loss_over_all_pairs_has_the_gradient_of_the_whole_batch(found) -> None:
    """Also that of the temperature, which every process computes from all pairs."""
    x, y = whole_batch()
    model, scale = network(), nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    loss = contrastive_loss(model(x), y, scale)
    loss.backward()
    for rank in (0, 1):
        theirs = [loss.detach(), *(p.grad for p in model.parameters()), scale.grad]
        same(found[rank]["contrastive"], theirs)


def test_metrics_are_averaged_and_one_process_speaks_for_all(found) -> None:
    for rank in (0, 1):
        assert float(found[rank]["metrics"]["a"]) == 1.5
        assert found[rank]["any"] == [True, False]


def test_what_must_be_the_same_is_compared_with_the_first_process(found) -> None:
    assert found[0]["same"] == ["", ""]
    assert found[1]["same"] == [
        "",
        "the last checkpoint is 8 for process 1 and 7 for process 0; it must be the same for all",
    ]


def test_one_process_changes_nothing_and_sends_nothing() -> None:
    x, _ = whole_batch()
    for function in (distributed.own_rows, distributed.gather_rows, distributed.average):
        assert torch.equal(function(x), x)
    distributed.check_same(7, "it")
    assert distributed.any_process(True) is True
    assert distributed.is_first_process()
    assert distributed.process_count() == 1


def test_a_bucket_is_full_before_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET", 10)
    sizes = [4, 4, 4, 12, 1]
    groups = distributed.buckets(torch.zeros(n) for n in sizes)
    assert [[len(each) for each in group] for group in groups] == [[4, 4, 4], [12], [1]]
