"""The mutants of scripts/mutate.py still fit the source, and a survivor would be noticed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def mutate():
    spec = importlib.util.spec_from_file_location("mutate", ROOT / "scripts" / "mutate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_mutant_fits_the_source_and_names_tests_that_exist(mutate):
    assert len({m.name for m in mutate.MUTANTS}) == len(mutate.MUTANTS) >= 30
    for mutant in mutate.MUTANTS:
        source = (ROOT / "align" / mutant.file).read_text()
        assert mutate.mutated(source, mutant) != source
        compile(mutate.mutated(source, mutant), mutant.file, "exec")
        assert all((ROOT / "tests" / file).is_file() for file in mutant.tests)


def test_a_mutant_that_no_longer_fits_is_refused(mutate):
    with pytest.raises(ValueError, match="advantage_sign: 0 times"):
        mutate.mutated("", mutate.MUTANTS[0])
