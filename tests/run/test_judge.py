"""Who judges a run without a reward of its own, and a run that cannot learn."""

from __future__ import annotations

import json
import math

import pytest

from align.config import JudgeConfig, NoCredit, NoSource, RewardConfig, RulesSource, SparseCredit
from align.config.methods import DPOConfig, GroupKLConfig, GRPOConfig
from align.config.rules import RegexRule
from align.errors import RunError
from align.run.runner import run
from tests import tiny
from tests.algorithms import runs


@pytest.mark.slow
def test_a_run_without_reward_is_judged_by_one_that_is_trained_for_it(tmp_path, monkeypatch):
    """By settings of its own, and a learning rate that is settled like every other."""
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    data = runs.write_data(tmp_path / "data")
    cfg = runs.config(DPOConfig(batch_size=4), data, max_steps=1, evaluation={"reward_model": "train"})
    cfg.reward = RewardConfig(NoSource(), NoCredit())
    cfg.evaluation.judge = JudgeConfig(epochs=3, batch_size=2, seed=5)
    said: list[str] = []
    after = run(cfg, tmp_path / "run", say=said.append)["after"]
    assert after["win_rate"]["judge"] == "evaluation" and after["reward"]["evaluation_mean"] is not None
    assert after["reward"]["proxy_mean"] is None
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    own = facts["evaluation_reward_model"]
    updates = math.ceil(3 * own["train_pairs"] / 2)
    line = f"trained first, once: reward model of the evaluation, {updates} updates of 2 on {own['train_pairs']} pairs"
    assert line in said and facts["auto"]["evaluation.judge.learning_rate"] > 0
    assert own["held_out"]["accuracy"] is not None


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


def test_a_judge_given_by_path_that_is_at_chance_is_a_warning_of_the_run(tmp_path):
    """A random classifier that is the judge alone: the run learns from pairs and is not refused for it."""
    data, folder = runs.write_data(tmp_path / "data"), tmp_path / "run"
    judge = {"reward_model": str(tiny.reward_folder()), "num_prompts": 4}
    cfg = runs.config(DPOConfig(batch_size=4), data, max_steps=1, evaluation=judge)
    cfg.reward = RewardConfig(NoSource(), NoCredit())
    said: list[str] = []
    result = run(cfg, folder, say=said.append)
    facts = json.loads((folder / "run.json").read_text())
    held_out = facts["evaluation_reward_model"]["held_out"]
    assert (held_out["pairs"], held_out["prompts"]) == (8, 8) and held_out["low"] <= held_out["accuracy"]
    found = [verdict for verdict in result["verdicts"] if verdict["key"] == "evaluation.reward_model"]
    assert len(found) == (held_out["low"] <= 0.5) == 1
    assert sum(line.startswith("warning: the judge is not shown") for line in said) == 1
    assert facts["verdicts"] == result["verdicts"] and result["after"]["win_rate"]["judge"] == "evaluation"


def test_an_evaluation_that_is_too_small_is_noted_at_every_place_and_leaves_the_status(tmp_path, capsys):
    """An update of DPO on pairs that are all alike turns all four held-out pairs: which four coins do in 1 of 8."""
    data, folder = runs.write_data(tmp_path / "data"), tmp_path / "run"
    few = {"num_pairs": 4, "num_prompts": 4}
    cfg = runs.config(DPOConfig(batch_size=4), data, max_steps=1, evaluation=few)
    cfg.reward, cfg.verdicts.cut = RewardConfig(NoSource(), NoCredit()), 1.0
    result = run(cfg, folder, say=lambda line: None)
    assert result["after"]["preference"]["log_ratio"]["accuracy"] == 1.0
    (verdict,) = result["verdicts"]
    assert (verdict["level"], verdict["key"], verdict["figure"]) == ("note", "evaluation.num_pairs", 0.5)
    text = "held-out accuracy 1.000 [1.000, 1.000] on 4 pairs, which may be no change; about 6 pairs would tell, and"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("note: the evaluation is too small for what it shows: ") and text in last
    assert last.endswith("the data holds out 8 (turn evaluation.num_pairs)")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "finished" and facts["verdicts"] == [verdict]
    assert text in (folder / "report.html").read_text()
