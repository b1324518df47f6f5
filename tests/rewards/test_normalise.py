"""Scores on another scale: by hand, without breaking what the signals per token promise, and back from a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch

from align.rewards import GoldScorer, Source, reward_input
from align.rewards.normalise import Fixed, Running, Scaled
from tests import tiny

NEEDS = frozenset({"prefix_scores"})


def batch(*texts: str):
    starts = tiny.prompts(len(texts))
    return reward_input(tiny.rollout_of(starts, [tiny.said(t) for t in texts]), starts, tiny.chat())


class Raw(Source):
    """Gives these scores, batch after batch."""

    def __init__(self, *batches: list[float]) -> None:
        self.batches = list(batches)

    def score(self, given, needs=frozenset()):
        out = GoldScorer(tiny.VowelWorld()).score(given, needs)
        return type(out)(total=torch.tensor(self.batches.pop(0)))


@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("scale", [None, Fixed(0.3, 0.5), Fixed(-1.0, 2.0)])
def test_every_signal_keeps_adding_up(scale, clip):
    """(score - mean) / std, then the clip; prefix scores end in it; rewards per token and spans sum to it."""
    given = batch("aeiou", "xyz", "ab")
    plain = GoldScorer(tiny.VowelWorld()).score(given, NEEDS)
    out = Scaled(GoldScorer(tiny.VowelWorld()), scale, clip).score(given, NEEDS)
    mean, std = (0.0, 1.0) if scale is None else (scale.mean, scale.std)
    expected = [(x - mean) / std for x in (1.25, 0.0, 0.25)]
    expected = [x if clip is None else max(-clip, min(clip, x)) for x in expected]
    assert out.total.tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(out.raw_total, plain.total)
    last = out.prefix_scores.gather(1, given.rollout.lengths.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(last, out.total, rtol=0, atol=1e-6)
    torch.testing.assert_close(out.token_scores.sum(1), out.total, rtol=0, atol=1e-6)
    assert [sum(s for _, _, s in row) for row in out.spans] == pytest.approx(out.total.tolist(), abs=1e-6)
    # Only the last token carries what the mean and the clip take away.
    inner = torch.arange(given.rollout.response_ids.shape[1]) < given.rollout.lengths.unsqueeze(1) - 1
    torch.testing.assert_close(out.token_scores[inner], plain.token_scores[inner] / std, rtol=0, atol=1e-6)
    assert not out.token_scores[given.rollout.response_mask == 0].any()


def test_a_running_scale_is_that_of_all_scores_so_far():
    batches = [[1.0, 2.0, 4.0], [10.0, -3.0, 0.5], [1e3, 1e3 + 1, 1e3 + 2]]
    source, seen = Scaled(Raw(*batches), Running()), []
    for scores in batches:
        seen += scores
        out = source.score(batch("a", "b", "c"))
        every = torch.tensor(seen, dtype=torch.float64)
        expected = (torch.tensor(scores) - every.mean()) / every.std(unbiased=False)
        assert out.total.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        assert out.raw_total.tolist() == scores


def test_equal_scores_have_no_unit_and_what_is_not_finite_does_not_stay():
    source = Scaled(Raw([3.0, 3.0], [3.0, float("nan")], [5.0, 1.0]), Running())
    assert source.score(batch("a", "b")).total.tolist() == [0, 0]
    first, second = source.score(batch("a", "b")).total.tolist()
    assert first == 0 and second != second
    assert source.score(batch("a", "b")).total.isfinite().all()


def test_a_frozen_view_neither_counts_nor_normalises():
    source = Scaled(Raw([1.0, 5.0], [2.0, 3.0], [2.0, 3.0]), Running(), clip=0.1)
    source.score(batch("a", "b"))
    before = source.state()
    assert source.frozen().score(batch("a", "b")).total.tolist() == [2, 3]
    assert source.state() == before
    fixed = Scaled(GoldScorer(tiny.VowelWorld()), Fixed(1.0, 2.0))
    assert fixed.frozen().score(batch("a")).total.tolist() == [(0.25 - 1) / 2]
    gold = GoldScorer(tiny.VowelWorld())
    assert gold.frozen() is gold and gold.state() == {}


def test_the_state_comes_back_bit_for_bit():
    torch.manual_seed(0)
    batches = [torch.randn(3).tolist() for _ in range(6)]
    whole, cut = Scaled(Raw(*batches), Running()), Scaled(Raw(*batches[:3]), Running())
    expected = [whole.score(batch("a", "b", "c")).total for _ in range(6)]
    for _ in range(3):
        cut.score(batch("a", "b", "c"))
    again = Scaled(Raw(*batches[3:]), Running())
    again.load_state(json.loads(json.dumps(cut.state())))
    for total in expected[3:]:
        assert torch.equal(again.score(batch("a", "b", "c")).total, total)
    nested, other = Scaled(Scaled(Raw([1.0]), Running()), None, 2.0), Scaled(Scaled(Raw(), Running()), None, 2.0)
    nested.score(batch("a"))
    other.load_state(nested.state())
    assert other.state() == nested.state() != {}
