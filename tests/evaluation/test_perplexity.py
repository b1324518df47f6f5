import math

import pytest
import torch

from align.evaluation import likelihood
from align.evaluation.likelihood import micro_batches, response_perplexity, text_perplexity

TEXTS = ["the quick brown fox", "a", "", "lazy dogs sleep all day long, it is said", "xy"]


@torch.no_grad()
def naive_nll(policy, context, target):
    """One token at a time, one row at a time, no padding."""
    total = 0.0
    for t, token in enumerate(target):
        ids = torch.tensor([[*context, *target[:t]]])
        logits = policy.model(ids).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, -1)[token])
    return total


def test_responses_equal_the_naive_loop(policy, chat, pairs):
    nll = sum(naive_nll(policy, p.prompt.input_ids, p.chosen_ids) for p in pairs)
    count = sum(len(p.chosen_ids) for p in pairs)
    assert all(p.chosen_ids.count(chat.end_id) == 1 for p in pairs)  # the end token counts, also of an empty answer
    expected = math.exp(nll / count)
    assert response_perplexity(policy, chat, pairs, batch_size=4) == pytest.approx(expected, rel=1e-5)
    per_response = math.exp(
        sum(naive_nll(policy, p.prompt.input_ids, p.chosen_ids) / len(p.chosen_ids) for p in pairs) / len(pairs)
    )
    assert abs(per_response / expected - 1) > 1e-3  # tokens are weighted, not responses


def test_texts_equal_the_naive_loop(policy, chat):
    rows = [chat.tokenizer(t)["input_ids"] for t in TEXTS]
    nll = sum(naive_nll(policy, ids[:1], ids[1:]) for ids in rows)
    expected = math.exp(nll / sum(max(0, len(ids) - 1) for ids in rows))
    assert text_perplexity(policy, chat, TEXTS, batch_size=2) == pytest.approx(expected, rel=1e-5)


def test_batches_and_order_change_nothing(policy, chat, pairs, monkeypatch):
    whole = response_perplexity(policy, chat, pairs, batch_size=64)
    for size in (1, 2, 3):
        assert response_perplexity(policy, chat, pairs[::-1], batch_size=size) == pytest.approx(whole, rel=1e-6)
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", 80 * len(chat.tokenizer))
    assert response_perplexity(policy, chat, pairs, batch_size=64) == pytest.approx(whole, rel=1e-6)


def test_nothing_to_measure(policy, chat):
    assert response_perplexity(policy, chat, [], 4) is None
    assert text_perplexity(policy, chat, ["a", ""], 4) is None


def test_long_texts_are_cut_at_the_model_s_context(policy, chat):
    limit = policy.model.config.max_position_embeddings
    long = "abc " * limit
    assert text_perplexity(policy, chat, [long], 4) == pytest.approx(
        text_perplexity(policy, chat, [long[:limit]], 4), rel=1e-6
    )


def test_micro_batches_hold_every_row_once(monkeypatch):
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", 1000)
    lengths = torch.tensor([3, 50, 7, 7, 20, 1, 120, 2])
    batches = micro_batches(lengths, vocabulary=10, rows=3)
    assert sorted(i for b in batches for i in b.tolist()) == list(range(8))
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or len(batch) * int(lengths[batch].max()) <= 100
