"""Perplexity of general text against a loop, by kind, and what is cut."""

from __future__ import annotations

import math

import pytest
import torch

from align.data.texts import Text
from align.evaluation import likelihood
from align.evaluation.forgetting import MAX_TEXT_TOKENS, forgetting, passages
from align.evaluation.intervals import Bootstrap
from align.evaluation.likelihood import micro_batches
from tests.evaluation.naive import naive_nll

TEXTS = [
    Text("the quick brown fox", "prose"),
    Text("a", "letters"),
    Text(""),
    Text("lazy dogs sleep all day long, it is said", "prose"),
    Text("xy", "letters"),
    Text("of no kind"),
]


def measured(policy, chat, texts, batch_size=2, longest=None):
    given = passages(texts, chat, longest=longest)
    return forgetting(policy, chat, given, batch_size, Bootstrap(confidence=0.9, seed=0))


def expected(policy, chat, texts):
    rows = [chat.tokenizer(text.text)["input_ids"] for text in texts]
    nll = sum(naive_nll(policy, ids[:1], ids[1:]) for ids in rows)
    return math.exp(nll / sum(max(0, len(ids) - 1) for ids in rows))


def test_texts_equal_the_naive_loop_whole_and_by_kind(policy, chat, monkeypatch):
    found = measured(policy, chat, TEXTS)
    assert found["forgetting_perplexity"] == pytest.approx(expected(policy, chat, TEXTS), rel=1e-5)
    prose = expected(policy, chat, [TEXTS[0], TEXTS[3]])
    assert found["forgetting_by_kind"] == pytest.approx(
        {"prose": prose, "letters": expected(policy, chat, [TEXTS[4]])}, rel=1e-5
    )
    assert found["forgetting_perplexity_low"] < found["forgetting_perplexity"] < found["forgetting_perplexity_high"]
    assert found["forgetting_by_kind_low"]["prose"] < prose < found["forgetting_by_kind_high"]["prose"]
    assert found["forgetting_by_kind_low"]["letters"] is None  # of a single text
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", 80 * len(chat.tokenizer))
    assert measured(policy, chat, TEXTS[::-1], 64)["forgetting_perplexity"] == pytest.approx(
        found["forgetting_perplexity"], rel=1e-5
    )


def test_texts_without_kinds_have_one_figure(policy, chat):
    found = measured(policy, chat, [Text("one text"), Text("another")])
    assert set(found) == {f"forgetting_perplexity{end}" for end in ("", "_low", "_high")}


def test_nothing_to_measure_is_none(policy, chat):
    assert measured(policy, chat, [Text("a"), Text("")]) == {"forgetting_perplexity": None}


def test_long_texts_are_cut_at_the_context_and_counted(policy, chat):
    limit = policy.model.config.max_position_embeddings
    long = "abc " * limit
    cut, whole = passages([Text(long), Text(long[:limit])], chat, longest=limit)
    assert (cut.cut, whole.cut) == (True, False)
    assert cut.input_ids == whole.input_ids and len(cut.input_ids) == limit
    assert len(passages([Text(long * 9)], chat, longest=None)[0].input_ids) == MAX_TEXT_TOKENS


def test_micro_batches_hold_every_row_once(policy, monkeypatch):
    config = policy.model.config
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", 100 * config.vocab_size)
    lengths = torch.tensor([3, 50, 7, 7, 20, 1, 120, 2])
    batches = micro_batches(lengths, config, rows=3)
    assert sorted(i for b in batches for i in b.tolist()) == list(range(8))
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or len(batch) * int(lengths[batch].max()) <= 100
