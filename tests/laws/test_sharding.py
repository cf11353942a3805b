"""A U-Net sharded over processes against the same one in a single process, in float64."""

import shutil
from pathlib import Path

import pytest
import torch

from sdlearn.utils.checkpoint import load_checkpoint, save_checkpoint
from sdlearn.utils.sharded_tensors import gathered, is_sharded, local, shared_out_like, whole
from tests.processes import torchrun
from tests.shard_network import held, networks, overflow, start, train


@pytest.fixture(scope="module", params=[2, 3])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes have saved what they found, and a checkpoint after three steps.

    Three of them cannot share 32 rows equally, and the third gets none of the last layer's four.
    """
    place = tmp_path_factory.mktemp("sharded")
    done = torchrun(request.param, "-m", "tests.shard_network", str(place))
    assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def found(place: Path) -> list[dict]:
    return [torch.load(file) for file in sorted(place.glob("*.pt"))]


@pytest.fixture(scope="module")
def alone() -> dict:
    """The same training in one process."""
    trained = start()
    norms = train(trained, 0, 5)
    weights, ema = (
        {key: x.clone() for key, x in net.state_dict().items()}
        for net in networks(trained).values()
    )
    return {"norms": norms, "weights": weights, "ema": ema, "held": held(trained)}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, x in theirs.items():
        torch.testing.assert_close(ours[key], x, rtol=1e-10, atol=1e-13, msg=key)


def test_each_process_holds_about_an_equal_part_of_everything(found, alone) -> None:
    for moment in ("held", "held again"):
        for name, total in alone["held"].items():
            parts = [each[moment][name] for each in found]
            assert sum(parts) == total, name
            assert max(parts) < 1.05 * total / len(found), name


def test_sharded_weights_and_their_average_are_trained_as_whole_ones(found, alone) -> None:
    for each in found:
        assert each["step"] == 3
        same(each["weights"], alone["weights"])
    same(found[0]["ema"], alone["ema"])
    assert all(each["empty"] for each in found[1:]), "process 0 alone puts the whole together"


def test_the_norm_that_is_clipped_is_that_of_the_whole_gradient(found, alone) -> None:
    assert min(alone["norms"]) > 0.2, "nothing is clipped"
    for each in found:
        assert each["norms"] == pytest.approx(alone["norms"], rel=1e-10)


def test_an_infinite_gradient_in_one_process_skips_the_step_of_all(found) -> None:
    assert [each["overflow"] for each in found] == [(False, 4.0)] * len(found)
    assert overflow(start()) == (False, 4.0)


def test_a_checkpoint_of_several_processes_is_that_of_one(place, alone, tmp_path) -> None:
    trained = start(seed=1)
    assert load_checkpoint(place, networks(trained), trained.states("unet")) == 3
    train(trained, 3, 5)
    same(trained.network.state_dict(), alone["weights"])
    same(trained.average.module.state_dict(), alone["ema"])

    one = start()
    train(one, 0, 3)
    theirs = save_checkpoint(tmp_path, 3, networks(one), one.states("unet"))
    ours = shutil.copytree(place / "checkpoints" / theirs.name, tmp_path / "two")
    names = [sorted(path.name for path in folder.iterdir()) for folder in (ours, theirs)]
    assert names[0] == names[1]
    states = [torch.load(folder / "optimizers.pt")["unet"] for folder in (ours, theirs)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for key, theirs in states[1]["state"].items():
        same(states[0]["state"][key], theirs)


def test_one_process_shares_nothing_out() -> None:
    trained = start()
    assert trained.skeletons == {}
    x = next(trained.network.parameters())
    assert not is_sharded(x)
    assert local(x) is x
    assert whole(x) is x
    assert gathered({"x": [x]}, keep=False)["x"][0] is x
    assert shared_out_like(x, x) is x
