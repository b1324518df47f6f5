"""The reward model that only judges, where the run itself has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from align.config import NoCredit, NoSource, RewardConfig
from align.config.methods import DPOConfig
from align.run.plan import judge_source
from align.run.runner import run
from tests import tiny
from tests.algorithms import runs


def test_its_settings_are_the_runs_own_with_another_seed():
    own = tiny.config().reward
    cfg = tiny.config(reward=replace(own, source=runs.RewardModelSource(path="given", seed=4, epochs=7)))
    found = judge_source(cfg)
    assert (found.path, found.seed, found.epochs) == (None, 5, 7)


@pytest.mark.slow
def test_a_run_without_reward_is_judged_by_one_that_is_trained_for_it(tmp_path, monkeypatch):
    """Its learning rate is settled like every other, though no key of the run has one."""
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    data = runs.write_data(tmp_path / "data")
    cfg = runs.config(DPOConfig(batch_size=4), data, max_steps=1, evaluation={"reward_model": "train"})
    cfg.reward = RewardConfig(NoSource(), NoCredit())
    assert judge_source(cfg).learning_rate > 0
    after = run(cfg, tmp_path / "run", say=lambda line: None)["after"]
    assert after["win_rate"]["judge"] == "evaluation" and after["reward"]["evaluation_mean"] is not None
    assert after["reward"]["proxy_mean"] is None
