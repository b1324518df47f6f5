"""What models make of pairs, by hand: scores of every prefix, accuracies with their ties, and prefix figures."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from align.engine.budget import FORWARD_TOKENS
from align.functional.masked import masked_sum
from align.rewards.pairs import (
    final_scores,
    log_ratio_accuracy,
    longer_wins,
    pair_accuracy,
    prefix_figures,
    prefix_scores,
)
from align.rewards.signals import LogRatio
from tests import tiny
from tests.run.stages import HELD_OUT, alone, loaded


@pytest.fixture
def model():
    return loaded(tiny.reward_folder())


def by_hand(model, pair, response: tuple[int, ...]) -> list[float]:
    """Scores of the first 0..T tokens, one forward each."""
    return [alone(model, pair, response[:t]) for t in range(len(response) + 1)]


def test_the_scores_of_every_prefix(model):
    scores, lengths = prefix_scores(model, tiny.chat(), HELD_OUT[:5])
    for i, (pair, side) in enumerate((p, r) for p in HELD_OUT[:5] for r in (p.chosen_ids, p.rejected_ids)):
        assert int(lengths[i]) == len(side)
        assert scores[i, : len(side) + 1].tolist() == pytest.approx(by_hand(model, pair, side), abs=1e-5)
        assert not scores[i, len(side) + 1 :].any()
    finals = final_scores(model, tiny.chat(), HELD_OUT[:5])
    assert finals.tolist() == [scores[i, n].item() for i, n in enumerate(lengths.tolist())]


def test_more_tokens_than_are_read_at_once(model):
    pairs = HELD_OUT * 14
    assert sum(len(p.prompt.input_ids) + len(p.chosen_ids) for p in pairs) > FORWARD_TOKENS / 2
    scores = final_scores(model, tiny.chat(), pairs).view(14, -1)
    torch.testing.assert_close(scores, final_scores(model, tiny.chat(), HELD_OUT).expand(14, -1), rtol=0, atol=1e-5)


def test_pair_accuracy_counts_wins_and_half_of_ties(model):
    good = [p for p in HELD_OUT if alone(model, p, p.chosen_ids) > alone(model, p, p.rejected_ids)][:10]
    bad = [dataclasses.replace(p.loaded(), chosen_ids=p.rejected_ids, rejected_ids=p.chosen_ids) for p in good[:3]]
    ties = [dataclasses.replace(p.loaded(), rejected_ids=p.chosen_ids) for p in good[:1]]
    assert len(good) == 10
    assert pair_accuracy(model, tiny.chat(), [*good, *bad, *ties]) == pytest.approx(10.5 / 14)


def test_log_ratio_accuracy_is_that_of_the_log_ratio_summed_over_the_response():
    policy, reference, wins = tiny.policy(seed=1), tiny.policy(), 0
    for pair in HELD_OUT:
        rollout = tiny.rollout_of([pair.prompt], [pair.chosen_ids, pair.rejected_ids], samples=2)
        chosen, rejected = masked_sum(LogRatio(policy, reference)(rollout), rollout.response_mask, dim=1).tolist()
        wins += chosen > rejected
    assert 0 < wins < len(HELD_OUT)
    assert log_ratio_accuracy(policy, reference, tiny.chat(), HELD_OUT) == pytest.approx(wins / len(HELD_OUT))


def test_longer_wins():
    start = tiny.prompts(1)[0]
    pairs = [tiny.pair(start, c, r) for c, r in [("aaa", "b"), ("aa", "b"), ("a", "bb"), ("aa", "bb")]]
    assert longer_wins(pairs) == (1 + 1 + 0 + 0.5) / 4


def test_the_figures_by_hand(model):
    """25% of 4 and 8 tokens is 1 and 2 of them; `offset` counts in deviations of the final scores."""
    pairs = [tiny.pair(tiny.prompts(2)[i % 2], "abc" + "d" * i, "xyz") for i in range(4)]
    rows = [by_hand(model, p, r) for p in pairs for r in (p.chosen_ids, p.rejected_ids)]
    final = torch.tensor([row[-1] for row in rows], dtype=torch.float64)
    figures = prefix_figures(model, tiny.chat(), pairs)
    assert list(figures["correlation"]) == ["0.25", "0.5", "0.75", "0.9", "before_last"]
    for name, fraction in [("0", 0.0), ("0.25", 0.25), ("0.9", 0.9), ("before_last", None)]:
        at = [row[-2] if fraction is None else row[round(fraction * (len(row) - 1))] for row in rows]
        values = torch.tensor(at, dtype=torch.float64)
        offset = (values.mean() - final.mean()) / final.std(unbiased=False)
        assert figures["offset"][name] == pytest.approx(float(offset), abs=1e-4)
        if name != "0":
            expected = float(torch.corrcoef(torch.stack([values, final]))[0, 1])
            assert figures["correlation"][name] == pytest.approx(expected, abs=1e-4)
