"""Scores of a reward model: at the last real token, prefix by prefix, and the attention behind them."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from align.config import AttentionCredit, PrefixCredit, SparseCredit
from align.engine.reference import ValueHead
from align.models.load import body_of
from align.models.reward_folder import linear_head
from align.rewards import RewardModelScorer, build_credit, reward_input
from tests import tiny

TEXTS = ["abe", "xyzou and so", "", "hm", "four", "five it is"]
ALL = frozenset({"prefix_scores", "attention"})


def classifier(**settings):
    return AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder(), **settings).eval()


def source(budget: int = 16384) -> RewardModelScorer:
    model = classifier()
    return RewardModelScorer(ValueHead(body_of(model), linear_head(model.score.weight), torch.float32), budget)


@pytest.fixture(scope="module")
def batch():
    starts = tiny.prompts(6)
    responses = [tiny.said(t) for t in TEXTS]
    responses[1] = responses[1][:-1]  # cut
    return reward_input(tiny.rollout_of(starts, responses), starts, tiny.chat())


def ids_of(batch, i: int, n: int | None = None) -> list[int]:
    """Prompt i and the first n tokens of its response (all of them)."""
    response = batch.rollout.response_ids[i, : int(batch.rollout.lengths[i]) if n is None else n]
    return [*tiny.prompts(6)[i].input_ids, *response.tolist()]


@pytest.mark.parametrize("budget", [16384, 60, 1])
def test_score_is_read_at_the_last_token_and_each_prefix_at_its_own(batch, budget):
    """'Score is read at the last response token'; any split into micro-batches gives the same."""
    out = source(budget).score(batch, ALL)
    model = classifier()
    for i, n in enumerate(batch.rollout.lengths.tolist()):
        for t in range(n + 1):
            with torch.no_grad():
                alone = model(torch.tensor([ids_of(batch, i, t)])).logits.item()
            torch.testing.assert_close(out.prefix_scores[i, t].item(), alone, rtol=0, atol=1e-5)
        assert out.total[i] == out.prefix_scores[i, n]
    assert out.parts["reward_model"] is out.total
    assert out.total.std() > 0.1


def test_attention_is_the_last_tokens_over_the_response(batch):
    """'Row of the last response token, response columns only.'"""
    out = source(60).score(batch, ALL)
    model = classifier(attn_implementation="eager")
    for i, n in enumerate(batch.rollout.lengths.tolist()):
        with torch.no_grad():
            last = model(torch.tensor([ids_of(batch, i)]), output_attentions=True).attentions[-1][0].mean(0)[-1]
        torch.testing.assert_close(out.attention[i, :n], last[-n:], rtol=0, atol=1e-5)
        assert out.attention[i, n:].sum() == 0


def test_only_what_is_asked_for(batch):
    out = source().score(batch)
    assert out.prefix_scores is None and out.attention is None and out.token_scores is None
    torch.testing.assert_close(out.total, source().score(batch, ALL).total, rtol=0, atol=1e-5)


def test_every_credit_spreads_the_same_score(batch):
    mask = batch.rollout.response_mask
    out = source().score(batch, ALL)
    sums = {type(c).__name__: build_credit(c).assign(out, mask).sum(1) for c in (SparseCredit(), AttentionCredit())}
    for total in sums.values():
        torch.testing.assert_close(total, out.total, rtol=0, atol=1e-5)
    prefix = build_credit(PrefixCredit()).assign(out, mask).sum(1)
    torch.testing.assert_close(prefix, out.total - out.prefix_scores[:, 0], rtol=0, atol=1e-5)
