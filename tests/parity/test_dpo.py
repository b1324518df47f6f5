"""DPO's losses and gradients against TRL's own on the same pairs; closed forms for the variants that TRL lacks."""

from __future__ import annotations

import math

import pytest
import torch
import trl
from datasets import Dataset

from align.config.methods import DPOConfig, DPOLoss
from tests import tiny
from tests.parity.sides import assert_equal, backward, gradients, loop, other_model, pairs

BETA = 0.3
# align's options, TRL's loss type, its label smoothing
VARIANTS = {
    "sigmoid": ({"loss": DPOLoss.sigmoid}, "sigmoid", 0.0),
    "robust": ({"loss": DPOLoss.robust, "label_smoothing": 0.15}, "robust", 0.15),
    "hinge": ({"loss": DPOLoss.hinge}, "hinge", 0.0),
    "ipo, which TRL averages over tokens": ({"loss": DPOLoss.ipo, "length_normalised": True}, "ipo", 0.0),
    "sigmoid_norm": ({"loss": DPOLoss.sigmoid, "length_normalised": True}, "sigmoid_norm", 0.0),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    rows = [
        {"prompt_ids": list(p.prompt.input_ids), "chosen_ids": list(p.chosen_ids), "rejected_ids": list(p.rejected_ids)}
        for p in pairs()
    ]

    class PreTokenised(trl.DPOTrainer):
        def _prepare_dataset(self, dataset, *_arguments):
            return dataset

    arguments = trl.DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), beta=BETA, use_cpu=True, report_to="none", bf16=False
    )
    made = PreTokenised(
        model=other_model(),
        ref_model=tiny.causal(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )
    made.model.eval()
    return made, made.data_collator(rows)


@pytest.fixture
def ours(tmp_path):
    """(loss, gradient) under these options, in micro-batches that split the pairs."""

    def compute(**options):
        made = loop(tmp_path, DPOConfig(beta=BETA, **options))
        loss = backward(made, [[0], [1, 2, 3]])
        return loss, gradients(made.run.roles.policy.model), made

    return compute


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradient_equal_trls(theirs, ours, name):
    options, loss_type, smoothing = VARIANTS[name]
    other, inputs = theirs
    other.loss_types, other.label_smoothing = [loss_type], smoothing
    expected = other.compute_loss(other.model, dict(inputs))
    expected.backward()
    loss, slope, _ = ours(**options)
    assert_equal(loss, slope, float(expected.detach()), gradients(other.model))


def plain_logprob(model, prompt, response) -> torch.Tensor:
    """Of one response after its prompt, without padding."""
    ids = torch.tensor([[*prompt, *response]])
    logp = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
    return sum(logp[len(prompt) - 1 + t, token] for t, token in enumerate(response))


CLOSED = {  # of margin m (summed), per-token margin n without and with reference; TRL has none of these
    "sigmoid with label smoothing (cDPO)": (
        {"label_smoothing": 0.1},
        lambda m, free: 0.9 * math.log1p(math.exp(-BETA * m)) + 0.1 * math.log1p(math.exp(BETA * m)),
    ),
    "ipo of whole responses": ({"loss": DPOLoss.ipo}, lambda m, free: (m - 1 / (2 * BETA)) ** 2),
    "SimPO: reference-free, length-normalised, with a margin": (
        {"reference_free": True, "length_normalised": True, "margin": 0.5},
        lambda m, free: math.log1p(math.exp(0.5 - BETA * free)),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_of_what_trl_lacks(ours, name):
    options, form = CLOSED[name]
    loss, _, made = ours(**options)
    policy, reference = made.run.roles.policy.model, made.run.roles.reference.model
    expected = 0.0
    with torch.no_grad():
        for p in pairs():
            sides = [
                (float(plain_logprob(m, p.prompt.input_ids, r)), len(r))
                for m in (policy, reference)
                for r in (p.chosen_ids, p.rejected_ids)
            ]
            (w, n_w), (l, n_l), (ref_w, _), (ref_l, _) = sides  # noqa: E741
            expected += form((w - ref_w) - (l - ref_l), w / n_w - l / n_l) / len(pairs())
    assert loss == pytest.approx(expected, rel=1e-5)
