"""Differences between two evaluations: paired intervals by hand, and no differences of ends."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from align.evaluation import EvaluationResult
from align.evaluation.change import delta, differences
from align.evaluation.intervals import RESAMPLES, Bootstrap, perplexity_of
from align.streams import generator

INTERVAL = Bootstrap(0.9, 3)


def by_hand(changes: list[float]) -> tuple[float, float]:
    """The 5% and 95% quantiles of means of resampled changes, one value a prompt."""
    drawn = torch.randint(len(changes), (RESAMPLES, len(changes)), generator=generator(3, "bootstrap")).tolist()
    means = torch.tensor([statistics.fmean(changes[i] for i in row) for row in drawn], dtype=torch.float64)
    low, high = means.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return low, high


def sample(prompt: int, gold: float, tokens: int, ended: bool = True):
    return {"prompt_id": prompt, "response": "a b", "tokens": tokens, "ended": ended, "proxy": None, "gold": gold}


def summary(gold: float, tokens: float, cut: float = 0.0):
    return {
        "reward": {"proxy_mean": None, "gold_mean": gold, "gold_se": 0.1},
        "verbosity": {"mean_tokens": tokens, "mean_tokens_low": 1.0, "mean_tokens_high": 9.0, "median_tokens": tokens},
        "cut_rate": cut,
        "cut_rate_low": 0.0,
        "cut_rate_high": 1.0,
    }


def test_a_mean_reward_moves_by_the_paired_interval_of_its_prompts():
    """The prompts' own levels, 0 to 30, are far wider than what moved: unpaired, the interval would be about 20."""
    levels, moved = [0.0, 10.0, 20.0, 30.0], [1.0, 0.5, 1.5, 0.0]
    old = [sample(i, level, 4) for i, level in enumerate(levels)]
    new = [sample(i, level + move, 6, ended=i > 0) for i, (level, move) in enumerate(zip(levels, moved, strict=True))]
    before = EvaluationResult(summary(15.0, 4.0), old)
    after = EvaluationResult(summary(15.75, 6.0, 0.25), new)
    found = delta(before, after, INTERVAL)
    low, high = by_hand(moved)
    assert found["reward"] == {
        "proxy_mean": None,
        "gold_mean": 0.75,
        "gold_mean_low": pytest.approx(low),
        "gold_mean_high": pytest.approx(high),
    }
    assert 0 < low < 0.75 < high < 1.5
    assert found["verbosity"] == {
        "mean_tokens": 2.0, "mean_tokens_low": 2.0, "mean_tokens_high": 2.0, "median_tokens": 2.0,
    }  # fmt: skip
    assert (found["cut_rate"], found["cut_rate_low"]) == (0.25, 0.0) and found["cut_rate_high"] > 0.25
    back = delta(after, before, INTERVAL)["reward"]
    assert (back["gold_mean_low"], back["gold_mean_high"]) == (pytest.approx(-high), pytest.approx(-low))


def pair(prompt: int, chosen: float, rejected: float):
    return {
        "prompt_id": prompt, "chosen_logprob": chosen, "rejected_logprob": rejected,
        "chosen_tokens": 2, "rejected_tokens": 4,
    }  # fmt: skip


def test_held_out_pairs_move_by_prompt():
    """Both pairs of prompt 1 are drawn together: three prompts, of which one turns right and one moves back."""
    old = [pair(1, -4.0, -2.0), pair(1, -4.0, -2.0), pair(2, -2.0, -4.0), pair(3, -2.0, -4.0)]
    new = [pair(1, -1.0, -2.0), pair(1, -1.0, -2.0), pair(2, -5.0, -4.0), pair(3, -2.0, -4.0)]
    figures = {
        "logprob": {"accuracy": 0.5, "margin": 0.0},
        "log_ratio": {"accuracy": None, "margin": 0.0},
        "perplexity_chosen": 1.0,
    }
    moved = {
        "logprob": {"accuracy": 0.75, "margin": 0.75},
        "log_ratio": {"accuracy": 0.5, "margin": 0.75},
        "perplexity_chosen": 2.0,
    }
    before = EvaluationResult({"preference": figures}, [], pairs=old)
    after = EvaluationResult({"preference": moved}, [], pairs=new)
    found = delta(before, after, INTERVAL)["preference"]
    drawn = torch.randint(3, (RESAMPLES, 3), generator=generator(3, "bootstrap"))
    pairs, right = torch.tensor([2.0, 1.0, 1.0])[drawn].sum(1), torch.tensor([2.0, -1.0, 0.0])[drawn].sum(1)
    ends = (right / pairs).double().quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    got = [found["logprob"][name] for name in ("accuracy", "accuracy_low", "accuracy_high")]
    assert got == pytest.approx([0.25, *ends], abs=1e-6) and ends[0] < 0 < ends[1]
    assert found["log_ratio"]["accuracy"] is None and "accuracy_low" not in found["log_ratio"]
    assert found["log_ratio"]["margin_low"] < found["log_ratio"]["margin"] < found["log_ratio"]["margin_high"]
    nats = torch.tensor([[8.0, 2.0, 2.0], [2.0, 5.0, 2.0]])[:, drawn].sum(2) / (2 * pairs)  # before, after
    moves = torch.tensor([perplexity_of(b) - perplexity_of(a) for a, b in nats.T.tolist()], dtype=torch.float64)
    ends = moves.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    got = [found["perplexity_chosen_low"], found["perplexity_chosen_high"]]
    assert got == pytest.approx(ends, rel=1e-5)


def test_a_single_prompt_has_no_interval():
    before, after = (EvaluationResult(summary(g, 4.0), [sample(0, g, 4)]) for g in (1.0, 2.0))
    found = delta(before, after, INTERVAL)["reward"]
    assert (found["gold_mean"], found["gold_mean_low"], found["gold_mean_high"]) == (1.0, None, None)


def test_a_score_that_is_not_a_number_has_no_ends():
    before, after = (EvaluationResult(summary(g, 4.0), [sample(i, g, 4) for i in range(3)]) for g in (1.0, math.nan))
    assert math.isnan(delta(before, after, INTERVAL)["reward"]["gold_mean_low"])


def test_missing_figures_are_null_and_ends_and_errors_are_left_out_but_for_a_win_rates():
    old = {"perplexity": None, "reward": {"gold_mean": None, "proxy_mean": 1.0, "proxy_se": 0.1}}
    old |= {"win_rate": {"mean": 0.5, "low": 0.5, "high": 0.5, "judge": "gold"}, "kl": {"k1": 0.0, "k1_se": 0.0}}
    new = {"perplexity": 3.0, "reward": {"gold_mean": None, "proxy_mean": 1.5, "proxy_se": 0.3}, "extra": {"x": 1.0}}
    new |= {"win_rate": {"mean": 0.75, "low": 0.625, "high": 1.0, "judge": "gold"}, "kl": {"k1": 1.0, "k1_se": 0.5}}
    new |= {"by_kind": {"low": 2.0}, "by_kind_low": {"low": 1.0}}
    assert differences(old, new) == {
        "perplexity": None,
        "reward": {"gold_mean": None, "proxy_mean": 0.5},
        "extra": {"x": None},
        "win_rate": {"mean": 0.25, "low": 0.125, "high": 0.5},
        "kl": {"k1": 1.0},
        "by_kind": {"low": None},
    }
