"""A reward model that is no better than chance is said to be so, and learned from only where that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from align.config import RewardConfig, RewardModelSource, SparseCredit
from align.config.methods import DPOConfig, RewardModelMethodConfig
from align.errors import InputError
from align.rewards import GoldScorer
from align.rewards.pairs import outcomes
from align.run.stages import Site
from align.run.verdicts import ENOUGH, PairAccuracy
from tests import tiny
from tests.tiny import CPU


def site(method=None, **source) -> tuple[Site, list[str]]:
    cfg = tiny.config(reward=RewardConfig(RewardModelSource(**source), SparseCredit()))
    cfg.method = method or cfg.method
    said: list[str] = []
    return Site(cfg, Path("unused"), CPU, torch.float32, None, said.append), said  # type: ignore[arg-type]


def test_a_method_that_would_learn_from_it_is_refused_where_enough_prompts_show_it():
    made, _ = site()
    with pytest.raises(InputError, match=r"reward\.source\.allow_chance: given False; .*0\.58.* of 100 prompts"):
        made.judge_reward_model(PairAccuracy.of_mean(0.58, ENOUGH, 0.95), "reward.source")
    made.judge_reward_model(PairAccuracy.of_mean(0.65, ENOUGH, 0.95), "reward.source")
    assert made.verdicts == []


@pytest.mark.parametrize(
    ("made", "prompts"),
    [
        (site(allow_chance=True), ENOUGH),
        (site(), ENOUGH - 1),
        (site(DPOConfig()), ENOUGH),
        (site(RewardModelMethodConfig()), ENOUGH),
    ],
    ids=["allowed", "too few prompts to tell", "nothing learns from it", "its own training"],
)
def test_elsewhere_it_is_a_warning_at_once_and_at_the_end(made, prompts):
    where, said = made
    where.judge_reward_model(PairAccuracy.of_mean(0.5, prompts, 0.95), "reward.source")
    (verdict,) = where.verdicts
    assert said == [verdict.line] and "not shown to be better than chance" in said[0]


def test_a_judge_at_chance_is_a_warning_whatever_the_method_and_the_number_of_prompts():
    made, said = site()
    made.judge_judge(PairAccuracy.of_mean(0.5, 10 * ENOUGH, 0.95))
    (verdict,) = made.verdicts
    assert verdict.key == "evaluation.reward_model" and said == [verdict.line]
    made.judge_judge(PairAccuracy.of_mean(0.65, ENOUGH, 0.95))
    assert made.verdicts == [verdict]


def test_a_pair_is_right_where_the_chosen_response_scores_higher_and_a_tie_half():
    given = [("aa", "bb"), ("bb", "ab"), ("bb", "cc"), ("ea", "bb")]
    pairs = [tiny.pair(prompt, *sides) for prompt, sides in zip(tiny.prompts(4), given, strict=True)]
    score = GoldScorer(tiny.VowelWorld()).score
    assert outcomes(score, tiny.chat(), pairs, CPU).tolist() == [1, 0, 0.5, 1]
    assert outcomes(score, tiny.chat(), pairs, CPU, rows=3).tolist() == [1, 0, 0.5, 1]
