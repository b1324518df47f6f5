"""Who judges a run without a reward of its own, and a run that cannot learn."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from align.config import NoCredit, NoSource, RewardConfig, RulesSource, SparseCredit
from align.config.methods import DPOConfig, GroupKLConfig, GRPOConfig
from align.config.rules import RegexRule
from align.errors import RunError
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


def test_a_run_in_which_nothing_can_be_learned_is_an_error_and_keeps_its_files(tmp_path):
    """Every response is paid the same, so no group has an advantage and no update a gradient."""
    data, folder = runs.write_data(tmp_path / "data"), tmp_path / "run"
    method = GRPOConfig(group_size=4, minibatch_size=4, kl=GroupKLConfig(coef=0.0))
    cfg = runs.config(method, data, max_steps=1)
    cfg.reward = RewardConfig(RulesSource(regex=RegexRule(pattern="no response has this")), SparseCredit())
    with pytest.raises(RunError, match=r"nothing was learned: no update of the policy had a gradient \(turn reward\)"):
        run(cfg, folder, say=lambda line: None)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "failed" and facts["verdicts"][0]["level"] == "error"
    assert (folder / "model").is_dir() and json.loads((folder / "evaluation.json").read_text())["after"] is not None
