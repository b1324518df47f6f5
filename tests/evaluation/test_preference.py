"""Figures of held-out pairs against a loop, and their intervals over prompts."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch

from align.evaluation import likelihood
from align.evaluation.intervals import Bootstrap
from align.evaluation.preference import LOGPROBS, logprobs_of, pair_logprobs, pair_rows, preference_figures
from tests import tiny
from tests.evaluation.naive import naive_nll

INTERVAL = Bootstrap(confidence=0.9, seed=0)


@pytest.fixture(scope="module")
def several(chat, pairs):
    """Two or three pairs of each prompt, of different lengths."""
    more = [
        replace(p.loaded(), rejected=text, rejected_ids=tuple(chat.encode_reply(tiny.ASKED, text)))
        for p in pairs[:4]
        for text in ("a longer answer", "no")
    ]
    return [*pairs, *more]


def test_logprobs_equal_the_naive_loop(policy, chat, several):
    found = pair_logprobs(policy, chat, several, batch_size=4)
    assert found.shape == (len(several), 2)
    for pair, (chosen, rejected) in zip(several, found.tolist(), strict=True):
        assert pair.chosen_ids.count(chat.end_id) == 1  # the end token counts, also of an empty answer
        assert chosen == pytest.approx(-naive_nll(policy, pair.prompt.input_ids, pair.chosen_ids), rel=1e-5)
        assert rejected == pytest.approx(-naive_nll(policy, pair.prompt.input_ids, pair.rejected_ids), rel=1e-5)


def test_batches_and_order_change_nothing(policy, chat, several, monkeypatch):
    whole = pair_logprobs(policy, chat, several, batch_size=64)
    for size in (1, 2, 3):
        found = pair_logprobs(policy, chat, several[::-1], batch_size=size)
        torch.testing.assert_close(found.flip(0), whole, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", 80 * len(chat.tokenizer))
    torch.testing.assert_close(pair_logprobs(policy, chat, several, 64), whole, rtol=1e-5, atol=1e-5)


def test_figures_by_hand(pairs):
    """Three pairs of two prompts; lengths in tokens 2 and 4, 4 and 2, 1 and 1."""
    sizes = ((2, 4), (4, 2), (1, 1))
    made = [
        replace(pairs[0 if i < 2 else 1].loaded(), chosen_ids=(0,) * chosen, rejected_ids=(0,) * rejected)
        for i, (chosen, rejected) in enumerate(sizes)
    ]
    own = torch.tensor([[-4.0, -6.0], [-8.0, -3.0], [-1.0, -1.0]]).double()
    start = torch.tensor([[-5.0, -4.0], [-8.0, -4.0], [-3.0, -1.0]]).double()
    found = preference_figures(made, own, start, INTERVAL)
    assert (found["pairs"], found["prompts"]) == (3, 2)
    expected = {
        "logprob": (0.5, (2 - 5 + 0) / 3),  # won, lost, tie
        "log_ratio": (2 / 3, ((1 - -2) + (0 - 1) + (2 - 0)) / 3),
        "per_token": (0.5 / 3, ((-2 + 1.5) + (-2 + 1.5) + 0) / 3),
    }
    for name, (accuracy, margin) in expected.items():
        assert found[name]["accuracy"] == pytest.approx(accuracy, abs=1e-12)
        assert found[name]["margin"] == pytest.approx(margin, abs=1e-12)
        assert found[name]["accuracy_low"] <= accuracy <= found[name]["accuracy_high"]
        assert found[name]["margin_low"] <= margin <= found[name]["margin_high"]
    assert found["perplexity_chosen"] == pytest.approx(math.exp(13 / 7))  # tokens are weighted, not responses
    assert found["perplexity_rejected"] == pytest.approx(math.exp(10 / 7))


def test_the_start_model_has_no_log_ratio(policy, chat, pairs):
    own = pair_logprobs(policy, chat, pairs, 8)
    found = preference_figures(pairs, own, own, INTERVAL)["log_ratio"]
    assert found == {
        "accuracy": None,
        "accuracy_low": None,
        "accuracy_high": None,
        "margin": 0.0,
        "margin_low": 0.0,
        "margin_high": 0.0,
    }


def test_a_log_probability_that_is_not_a_number_is_no_lost_pair(pairs):
    own = torch.tensor([[math.nan, -1.0], [-1.0, -2.0]]).double()
    found = preference_figures(pairs[:2], own, torch.zeros(2, 2), INTERVAL)
    assert math.isnan(found["logprob"]["accuracy"]) and math.isnan(found["perplexity_chosen"])
    assert found["perplexity_rejected"] > 1


def test_rows_round_trip(policy, chat, pairs):
    own = pair_logprobs(policy, chat, pairs, 8)
    rows = pair_rows(pairs, own)
    assert torch.equal(logprobs_of(rows), own)  # in full precision: a rounded one would be a log-ratio
    assert [row["chosen_tokens"] for row in rows] == [len(p.chosen_ids) for p in pairs]
    assert math.isnan(logprobs_of([rows[0] | {LOGPROBS[0]: None}])[0, 0])


def test_pairs_of_a_prompt_are_drawn_together():
    """Copies of a prompt's pairs say nothing new: the interval must not shrink, as one over pairs would."""
    random = torch.Generator().manual_seed(0)
    values = torch.randn(60, generator=random).double()
    copied = values.repeat_interleave(9)
    single = INTERVAL.ratio("x", values, torch.ones(60), range(60))
    prompts = torch.arange(60).repeat_interleave(9).tolist()
    assert INTERVAL.ratio("x", copied, torch.ones(540), prompts) == pytest.approx(single)
    naive = INTERVAL.ratio("x", copied, torch.ones(540), range(540))
    assert naive["x_high"] - naive["x_low"] < 0.5 * (single["x_high"] - single["x_low"])


def test_interval_is_the_normal_one():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    found = INTERVAL.ratio("x", values, torch.ones(400), range(400))
    half = 1.645 * float(values.std()) / 20
    assert found["x"] == pytest.approx(float(values.mean()))
    assert found["x_low"] == pytest.approx(found["x"] - half, abs=0.1 * half)
    assert found["x_high"] == pytest.approx(found["x"] + half, abs=0.1 * half)
    one = {"x": 3.0, "x_low": None, "x_high": None}
    assert INTERVAL.ratio("x", torch.tensor([6.0, 0.0]), torch.ones(2), [5, 5]) == one  # a single prompt
    assert INTERVAL.mean("x", [3.0]) == one
    assert INTERVAL.mean("x", values.tolist())["x"] == pytest.approx(statistics.fmean(values.tolist()))
