"""Sources and credit schemes that were made apart, together in whole runs on the tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align import metrics
from align.config import (
    CompositeSource,
    CreditConfig,
    EnsembleSource,
    FunctionSource,
    ImplicitCredit,
    Normalise,
    Returns,
    RewardConfig,
    RewardModelSource,
    RulesSource,
    SourceConfig,
    SpansCredit,
)
from align.config.composition import check_all
from align.config.methods import GRPOConfig, OnPolicyConfig, PPOConfig
from align.config.rules import RepetitionRule, WordLimitRule
from align.loop.checkpoint import read_state
from align.run.runner import run
from tests import tiny
from tests.algorithms import runs

FUNCTION = """
def vowels(responses):
    return [[(i, i + 1, 1.0, c) for i, c in enumerate(text) if c in "aeiou"] for text in responses]
"""
CREDITS = {"implicit": ImplicitCredit(batch_size=8, learning_rate=1e-3), "spans": SpansCredit()}
METHODS = {
    "ppo": PPOConfig(minibatch_size=4),
    "grpo": GRPOConfig(group_size=2, minibatch_size=4),
}


def model(seed: int) -> RewardModelSource:
    return RewardModelSource(path=str(tiny.reward_folder(seed=seed)), reference_responses=8)


def finished(folder: Path, method: OnPolicyConfig, source: SourceConfig, credit: CreditConfig, **root: Any) -> Path:
    """A run of three updates; every record has exactly the metrics that it must have."""
    cfg = runs.config(method, runs.write_data(folder / "data"), max_steps=3, **root)
    cfg = replace(cfg, reward=RewardConfig(source=source, credit=credit))
    check_all(cfg)
    run(cfg, folder / "run", say=lambda line: None)
    records = runs.lines(folder / "run" / f"{method.name}_metrics.jsonl")
    assert len(records) == 3 and all(metrics.compare(record, method.name) == (set(), set()) for record in records)
    return folder / "run"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(("method", "credit"), [("ppo", "implicit"), ("grpo", "spans")])
def test_a_sum_of_models_a_function_and_rules(tmp_path: Path, method: str, credit: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(FUNCTION)
    parts = {
        "one": model(1),
        "two": model(2),
        "own": FunctionSource(path=f"{file}:vowels", returns=Returns.spans, normalise=Normalise.running),
        "rules": RulesSource(word_limit=WordLimitRule(weight=0.0), repetition=RepetitionRule(weight=1.0, size=1)),
    }
    folder = finished(tmp_path, METHODS[method], CompositeSource(parts=parts), CREDITS[credit])
    record = runs.lines(folder / f"{method}_metrics.jsonl")[-1]
    assert {f"reward/part_{name}" for name in parts} <= set(record)
    saved = read_state(folder / f"{method}_step_3")["method"]["source"]
    assert saved["own"]["running"]["count"] == 8 * (record["rollout"] + 1)


def test_an_ensemble_pays_beside_a_dpo_adapter(tmp_path: Path) -> None:
    paths = [str(tiny.reward_folder(seed=1)), str(tiny.reward_adapter())]
    source = EnsembleSource(members=0, paths=paths, reference_responses=8)
    folder = finished(tmp_path, METHODS["ppo"], source, CREDITS["implicit"], adapter=runs.LORA)
    assert {"reward/part_member_0", "reward/part_member_std"} <= set(runs.lines(folder / "ppo_metrics.jsonl")[0])
    assert list((tmp_path / "home").rglob("adapter_config.json"))
