"""scripts/bench/overhead.py: what it times is what the loop and the algorithms call."""

import importlib.util
from pathlib import Path

import pytest

from align.algorithms import grpo, ppo

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "overhead.py"


def test_it_stands_around_everything_that_is_only_reported(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.syspath_prepend(SCRIPT.parent)  # what it shares with the other benchmarks
    spec = importlib.util.spec_from_file_location("overhead", SCRIPT)
    overhead = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(overhead)
    found = list(overhead.counted())
    assert all(callable(getattr(owner, name)) for owner, name, _ in found)
    of = {owner: {name for whose, name, _ in found if whose is owner} for owner in (ppo, grpo)}
    checks = {"check_first_ratio", "refuse_not_finite"}
    figures = {"add_rollout", "add_policy", "add_values", "add_update", "add_value_update", "describe", "with_speed"}
    assert of == {ppo: figures | checks, grpo: {"add_advantages"}}
