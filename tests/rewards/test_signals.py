"""What a run adds to any source: ends of sentences, a DPO policy's log-ratio, segments on their last tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from align.config import ImplicitCredit, PrefixCredit, PrefixStep, SpansCredit, SparseCredit
from align.functional.masked import zero_outside
from align.rewards import Source, build_credit, reward_input
from align.rewards.normalise import Running, Scaled
from align.rewards.signals import LogRatio, WithSignals, sentence_ends
from align.types import RewardInput, RewardOutput
from tests import tiny

TEXTS = ["ab\nc\nd", "no end", "", "one\ntwo\n"]


def batch(texts=TEXTS, reverse: bool = False, wider: int = 0) -> RewardInput:
    starts = tiny.prompts(len(texts))
    given = list(zip(starts, texts, strict=True))
    starts, texts = zip(*(reversed(given) if reverse else given), strict=True)
    longest = [*texts, "x" * wider] if wider else texts  # one more row widens the padding of all
    prompts = [*starts, *([starts[0]] if wider else [])]
    rollout = tiny.rollout_of(prompts, [tiny.said(text) for text in longest])
    return reward_input(rollout, prompts, tiny.chat())


class Spans(Source):
    """A source that labels: every letter o is worth 2, the end -1."""

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        spans = [
            [(i, i + 1, 2.0) for i, c in enumerate(t) if c == "o"] + [(len(t), len(t), -1.0)] for t in batch.responses
        ]
        total = torch.tensor([sum(score for *_, score in row) for row in spans])
        return RewardOutput(total=total, parts={"o": total}, spans=spans)


def test_sentences_end_where_their_last_sign_stands():
    given = batch(["abpxcqxd", "no end", "", "oneetwor"])
    shown = replace(given, responses=["ab. c? d", "no end", "", "one\ntwo!"])  # a token a character, as it was
    ends = sentence_ends(shown)
    places = [row.nonzero().squeeze(1).tolist() for row in ends]
    assert places == [[2, 5], [], [], [3, 7]]
    assert int((ends * (1 - given.rollout.response_mask)).sum()) == 0


def test_sentence_steps_use_them():
    config = PrefixCredit(step=PrefixStep.sentence)
    credit = build_credit(config)
    assert (config.needs, config.adds) == ({"prefix_scores"}, {"sentence_ends"})
    assert credit.needs == {"prefix_scores", "sentence_ends"}
    given = batch()
    mask = given.rollout.response_mask
    width = mask.shape[1]
    scores = torch.arange(width + 1).float().repeat(len(mask), 1)  # the score counts the tokens
    out = RewardOutput(total=torch.zeros(len(mask)), prefix_scores=scores, sentence_ends=sentence_ends(given))
    rewards = credit.assign(out, mask)
    assert rewards[0].tolist()[:7] == [0, 0, 3, 0, 2, 0, 2]  # "ab\\n", "c\\n", "d" and the end token
    assert rewards.sum(1).tolist() == mask.sum(1).tolist()


def test_segments_are_put_on_their_last_tokens():
    credit = build_credit(SpansCredit())
    given = batch(["so old", "xx"])
    out = WithSignals(Spans()).score(given, credit.needs)
    rewards = credit.assign(out, given.rollout.response_mask)
    assert rewards.tolist() == [[0, 2, 0, 2, 0, 0, -1], [0, 0, -1, 0, 0, 0, 0]]
    torch.testing.assert_close(rewards.sum(1), out.total)
    assert WithSignals(Spans()).score(given).token_scores is None  # nobody asked


def test_a_running_scale_underneath_is_kept_and_left_alone_by_evaluations():
    source = WithSignals(Scaled(Spans(), Running()))
    given, needs = batch(["so old", "xx", "o"]), frozenset({"sentence_ends"})
    source.score(given, needs)
    saved = source.state()
    assert saved["running"]["count"] == 3
    seen = source.frozen().score(given, needs)
    assert seen.sentence_ends is not None and seen.total.tolist() == [3, -1, 1]
    assert source.state() == saved
    again = WithSignals(Scaled(Spans(), Running()))
    again.load_state(saved)
    assert torch.equal(again.score(given).total, source.score(given).total)


@pytest.mark.parametrize("scale", [None, Running()], ids=["none", "running"])
def test_segments_sum_to_the_score_on_any_scale(scale):
    credit = build_credit(SpansCredit())
    given = batch(["so old", "xx", "o"])
    out = WithSignals(Scaled(Spans(), scale, clip=0.5)).score(given, credit.needs)
    torch.testing.assert_close(credit.assign(out, given.rollout.response_mask).sum(1), out.total)
    assert float(out.total.abs().max()) == 0.5


@pytest.fixture(scope="module")
def log_ratio():
    return LogRatio(tiny.policy(seed=1), tiny.policy(), token_budget=40)  # several micro-batches


def test_the_log_ratio_is_that_of_the_two_policies(log_ratio):
    given = batch()
    rollout = given.rollout
    expected = tiny.policy(seed=1).response_logprobs(rollout, 1.0) - tiny.policy().response_logprobs(rollout, 1.0)
    torch.testing.assert_close(log_ratio(rollout), expected, rtol=0, atol=1e-5)
    assert float(expected.abs().sum()) > 1
    config = ImplicitCredit(scale=0.5, clip=10.0)
    credit = build_credit(config)
    assert (config.needs, credit.needs) == (set(), {"log_ratio"})
    out = WithSignals(Spans(), log_ratio).score(given, credit.needs)
    rewards = credit.assign(out, rollout.response_mask)
    plain = build_credit(SparseCredit()).assign(out, rollout.response_mask)
    torch.testing.assert_close(rewards - plain, 0.5 * expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("needs", [{"sentence_ends"}, {"log_ratio"}, {"token_scores"}], ids=str)
def test_order_and_padding_change_no_signal(log_ratio, needs):
    (name,) = needs
    source = WithSignals(Spans(), log_ratio)
    here, there, wide = (batch(), batch(reverse=True), batch(wider=30))
    signal = getattr(source.score(here, frozenset(needs)), name)
    turned = getattr(source.score(there, frozenset(needs)), name)
    padded = getattr(source.score(wide, frozenset(needs)), name)
    torch.testing.assert_close(turned.flip(0), signal, rtol=0, atol=1e-5)
    torch.testing.assert_close(padded[: len(signal), : signal.shape[1]], signal, rtol=0, atol=1e-5)
    assert torch.equal(zero_outside(padded, wide.rollout.response_mask), padded)
