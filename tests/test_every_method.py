"""Every method of the registry, tiny: what it logs is what the table says, nothing missing, extra or not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from align import metrics
from align.config import LoopConfig
from align.config.groups import METHODS
from align.run.runner import run
from tests.algorithms import runs

SIZES: dict[str, dict[str, Any]] = {  # of an update; what a method does not name here runs with its defaults
    "ppo": {"minibatch_size": 4},
    "grpo": {"group_size": 4, "minibatch_size": 4},
    "dpo": {"batch_size": 8},
    "sft": {"batch_size": 8},
    "best_of_n": {"n": 2},
    "trl_dpo": {"batch_size": 8},
    "trl_kto": {"batch_size": 8},
    "trl_grpo": {"group_size": 4, "minibatch_size": 4},
    "trl_rloo": {"group_size": 4, "minibatch_size": 4},
}
# What an evaluation may lack here: there is no world, no second reward model, no harness, no card of how the reward
# model was trained, and a response may be a single word.
ABSENT = (
    "lm_eval",
    "_unscored",  # of rewards that leave responses out
    "forgetting_by_kind",
    "reward_model/train_pairs",
    "reward_model/seconds",
    "gold",
    "kl_by",
    "evaluation_",
    "pays",
    "quality_gain",
    "gap/gap",
    "distinct_2",
    "distinct_3",
    "length_correlation",
)


@pytest.fixture(scope="module", params=METHODS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    name = request.param
    folder: Path = tmp_path_factory.mktemp(name)
    data = runs.write_data(folder / "data")
    config = runs.config(METHODS[name](**SIZES.get(name, {})), data, evaluation={"every_steps": 1})
    run(config, folder / "run", say=lambda line: None)
    return name, folder / "run"


def finite(record: dict[str, Any]) -> bool:
    return "nonfinite" not in record and all(math.isfinite(v) for v in record.values() if isinstance(v, float))


def test_step_records(finished: tuple[str, Path]) -> None:
    name, folder = finished
    records = [r for r in runs.lines(folder / "log_history.jsonl") if "phase" not in r]
    assert len(records) == (2 if METHODS[name]().trains else 0)
    for record in records:
        assert metrics.compare(record, name) == (set(), set())
        assert finite(record)


def test_how_much_is_read_at_once_is_recorded(finished: tuple[str, Path]) -> None:
    name, folder = finished
    ours = isinstance(METHODS[name](), LoopConfig)
    assert json.loads((folder / "run.json").read_text())["micro_batch_tokens"] == (8192 if ours else None)


def test_evaluations(finished: tuple[str, Path]) -> None:
    name, folder = finished
    records = [r for r in runs.lines(folder / "log_history.jsonl") if "phase" in r]
    trains = METHODS[name]().trains
    assert [r["phase"] for r in records] == ["before", *["during"] * trains, "after"]
    known = {f"eval/{n}" for n in metrics.evaluation_definitions(name)}
    for record in records:
        assert finite(record)
        found = {metrics.lookup(n).name for n in record if n not in metrics.EVALUATION_FIELDS}
        assert found <= known
        own = {n for n in known if metrics.METRICS[n].methods == (name,)}
        bounded = name == "best_of_n" and record["phase"] == "after"
        lacking = {n for n in known - found if not any(part in n for part in ABSENT)}
        if bounded:  # its KL is a bound, of no policy
            lacking = {n for n in lacking if not n.startswith("eval/kl") and n != "eval/diversity/entropy"}
        if record["phase"] == "before" or not trains:  # no pair's log-ratio differs from the start's
            lacking = {n for n in lacking if "preference/log_ratio/accuracy" not in n}
        assert lacking <= (own if record["phase"] != "after" else set())
    content = json.loads((folder / "evaluation.json").read_text())
    assert "nonfinite" not in content and metrics.flatten(content["after"]).keys() <= set(records[-1])
