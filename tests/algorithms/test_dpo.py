"""DPO on pairs: what is summed, what is reported, and that the chosen response wins in the end."""

from __future__ import annotations

import math

import pytest
import torch

from align.config.methods import DPOConfig, DPOLoss
from align.errors import InputError
from align.loop.protocol import Progress
from align.metrics import Tally, compare
from tests import tiny
from tests.parity.sides import backward, gradients, loop, pairs


def test_loss_is_log_2_and_the_margin_0_before_the_first_update(tmp_path):
    made = loop(tmp_path, DPOConfig(batch_size=4), moved=False)
    tally = Tally()
    assert backward(made, [[0, 1, 2, 3]], tally) == pytest.approx(math.log(2), rel=1e-6)
    metrics = tally.result()
    assert metrics["dpo/margin"] == 0 and metrics["dpo/accuracy"] == 0.5


def test_reports_log_probabilities_of_whole_responses_with_their_end_token(tmp_path):
    made = loop(tmp_path, DPOConfig(batch_size=4))
    tally = Tally()
    backward(made, [[0, 1, 2, 3]], tally)
    model = made.run.roles.policy.model
    for name, side in (("chosen", "chosen_ids"), ("rejected", "rejected_ids")):
        expected = 0.0
        for p in pairs():
            response = getattr(p, side)
            assert response[-1] == tiny.chat().end_id and response.count(tiny.chat().end_id) == 1
            ids = torch.tensor([[*p.prompt.input_ids, *response]])
            with torch.no_grad():
                logp = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
            expected += sum(float(logp[len(ids[0]) - 1 - len(response) + t, k]) for t, k in enumerate(response)) / 4
        assert tally.result()[f"dpo/{name}_logp"] == pytest.approx(expected, rel=1e-5)


def test_splitting_into_micro_batches_changes_no_gradient(tmp_path):
    slopes = []
    for parts in ([[0, 1, 2, 3]], [[1], [3, 0], [2]]):
        made = loop(tmp_path, DPOConfig(batch_size=4))
        backward(made, parts)
        slopes.append(gradients(made.run.roles.policy.model))
    assert float((slopes[1] - slopes[0]).norm() / slopes[0].norm()) < 1e-5


@pytest.mark.parametrize("loss", DPOLoss)
def test_every_loss_comes_to_prefer_the_chosen_responses(tmp_path, loss):
    smoothing = 0.1 if loss is DPOLoss.robust else 0.0
    method = DPOConfig(batch_size=4, learning_rate=3e-3, loss=loss, label_smoothing=smoothing)
    seen = tiny.Recorder()
    loop(tmp_path, method, moved=False, steps=12, callbacks=[seen]).train()
    assert [compare(record, "dpo") for record in seen.records] == [(set(), set())] * 12
    metrics = seen.records[-1]
    assert metrics["dpo/accuracy"] == 1 and metrics["dpo/margin"] > 0.2
    assert metrics["dpo/chosen_logp"] > metrics["dpo/rejected_logp"]


def test_a_pass_serves_every_pair_once_and_a_short_batch_is_completed_from_the_next(tmp_path):
    made = loop(tmp_path, DPOConfig(batch_size=3))
    served = [i for k in range(4) for i in made.algorithm.minibatch(Progress(update=k), 4).tolist()]
    assert [sorted(served[i : i + 4]) for i in (0, 4, 8)] == [[0, 1, 2, 3]] * 3
    at = Progress(update=3)
    assert not made.algorithm.used_up(at, 4, None) and at.rollout == 2  # passes behind it


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"beta": 0.0}, "method.beta"),
        ({"label_smoothing": 0.5}, "method.label_smoothing"),
        ({"label_smoothing": 0.1, "loss": DPOLoss.ipo}, "method.label_smoothing"),
        ({"loss": DPOLoss.robust}, "method.label_smoothing"),
        ({"margin": 0.5, "loss": DPOLoss.hinge}, "method.margin"),
        ({"batch_size": 0}, "method.batch_size"),
    ],
)
def test_options_that_cannot_run_are_refused(options, key):
    with pytest.raises(InputError) as error:
        DPOConfig(**options).check(tiny.config())
    assert error.value.key == key
