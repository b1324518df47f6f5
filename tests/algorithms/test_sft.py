"""Supervised fine-tuning on chosen responses: the loss of their tokens only, the end token among them."""

from __future__ import annotations

import pytest
import torch

from align.config.methods import SFTConfig
from align.metrics import Tally, compare
from tests import tiny
from tests.parity.sides import backward, gradients, loop, pairs


def test_loss_is_the_mean_over_the_tokens_of_the_chosen_responses(tmp_path):
    """As transformers compute it from labels, without padding."""
    made = loop(tmp_path, SFTConfig(batch_size=4))
    total, count = 0.0, 0
    for p in pairs():
        ids = torch.tensor([[*p.prompt.input_ids, *p.chosen_ids]])
        labels = ids.clone()
        labels[:, : len(p.prompt.input_ids)] = -100
        with torch.no_grad():
            loss = float(made.run.roles.policy.model(input_ids=ids, labels=labels).loss)
        total, count = total + loss * len(p.chosen_ids), count + len(p.chosen_ids)
    tally = Tally()
    loss = backward(made, [[0], [1, 2, 3]], tally)
    assert loss == pytest.approx(total / count, rel=1e-5)
    assert tally.result()["sft/loss"] == pytest.approx(total / count, rel=1e-5)


def test_splitting_into_micro_batches_changes_no_gradient(tmp_path):
    slopes = []
    for parts in ([[0, 1, 2, 3]], [[1], [3, 0], [2]]):
        made = loop(tmp_path, SFTConfig(batch_size=4))
        backward(made, parts)
        slopes.append(gradients(made.run.roles.policy.model))
    assert float((slopes[1] - slopes[0]).norm() / slopes[0].norm()) < 1e-5


def test_it_learns_the_chosen_and_never_reads_the_rejected(tmp_path):
    seen = tiny.Recorder()
    loop(tmp_path, SFTConfig(batch_size=4, learning_rate=3e-3), steps=15, callbacks=[seen]).train()
    assert [compare(record, "sft") for record in seen.records] == [(set(), set())] * 15
    losses = seen.column("sft/loss")
    assert losses[-1] < losses[0] - 0.5
    expected = sum(len(p.prompt.input_ids) + len(p.chosen_ids) for p in pairs()) * 15
    assert seen.records[-1]["tokens/policy"] == expected


def test_the_end_token_is_learnt(tmp_path):
    """A response without its end token has another loss, and leaves the end token without gradient."""
    made = loop(tmp_path, SFTConfig(batch_size=1))
    backward(made, [[0]])
    slope = made.run.roles.policy.model.lm_head.weight.grad[tiny.chat().end_id]
    others = made.run.roles.policy.model.lm_head.weight.grad[tiny.chat().pad_id]
    assert float(slope.norm()) > 3 * float(others.norm())
