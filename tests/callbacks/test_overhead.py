"""scripts/bench/overhead.py: what it times is what the trainers call."""

import importlib.util
from pathlib import Path

import pytest

from align.algorithms import on_policy

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "overhead.py"


def test_it_stands_around_everything_that_is_only_reported(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.syspath_prepend(SCRIPT.parent)  # what it shares with the other benchmarks
    spec = importlib.util.spec_from_file_location("overhead", SCRIPT)
    overhead = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(overhead)
    found = list(overhead.counted())
    assert all(callable(getattr(owner, name)) for owner, name, _ in found)
    of_rollouts = {name for owner, name, _ in found if owner is on_policy}
    assert of_rollouts == {"add_responses", "add_rewards", "add_truth", "add_policy", "describe", "with_speed"}
