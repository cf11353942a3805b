"""The suite notices the mistakes that people really make in these parts, each made once."""

import importlib.util
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[2] / "tools" / "mutants.py"
SPEC = importlib.util.spec_from_file_location("mutants", PLACE)
assert SPEC is not None
assert SPEC.loader is not None
mutants = importlib.util.module_from_spec(SPEC)
sys.modules["mutants"] = mutants
SPEC.loader.exec_module(mutants)


@pytest.mark.slow
@pytest.mark.parametrize("each", mutants.MUTANTS, ids=lambda each: each.name)
def test_noticed(each):
    failed = mutants.run(each)
    assert failed.startswith(tuple(test.split("::")[0] for test in each.tests))


def test_there_are_enough_and_one_that_does_not_fit_is_an_error():
    assert len({each.name for each in mutants.MUTANTS}) == len(mutants.MUTANTS) >= 20
    with pytest.raises(AssertionError, match=r"vae.py has 'no such code' 0 times"):
        mutants.run(mutants.mutant("stale", "vae.py", "no such code", "", mutants.VAE))
