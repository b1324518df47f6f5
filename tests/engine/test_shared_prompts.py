"""A prompt read once for its rows gives what each row gives alone: padding, grouped heads, windows, soft caps."""

from __future__ import annotations

import pytest
import torch

from align.engine import policy as policy_module
from align.engine.inputs import shared_prompts
from align.types import Sequences
from tests import tiny
from tests.engine.reading import batch, lora, read, same

SHAPES = sorted(tiny.SHAPES)
PROMPT = 50  # tokens of the longest


def mixed() -> Sequences:
    """Rows of three prompts of 50, 31 and 7 tokens, in mixed order, with responses of 1 to 9."""
    return batch((PROMPT, 31, 7), (9, 1, 4, 6, 9, 2, 8, 5), (0, 1, 0, 2, 1, 0, 2, 0))


@pytest.mark.parametrize("make", [tiny.policy, lora])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shared_prompt_gives_the_log_probabilities_and_gradients_of_rows_by_themselves(shape, make, monkeypatch):
    """To 2e-5 nats, and to 1e-4 of each gradient's largest entry."""
    policy, given = make(shape), mixed()
    shared = read(policy, given)
    monkeypatch.setattr(policy_module, "shared_prompts", lambda _batch: None)
    monkeypatch.setattr(policy_module, "reads_packed", lambda _model: False)
    plain = read(policy, given)
    assert shared.tokens < 0.6 * plain.tokens
    torch.testing.assert_close(shared.logprobs, plain.logprobs, rtol=0, atol=2e-5)
    same(shared.gradients, plain.gradients)


def test_prompts_are_shared_where_that_saves_enough():
    given = mixed()
    different, masks, which = shared_prompts(given)
    assert torch.equal(different[which], given.prompt_ids) and torch.equal(masks[which], given.prompt_mask)
    assert len(different) == 3
    assert shared_prompts(given.rows(torch.tensor([0, 1, 3]))) is None  # each has its own
    assert shared_prompts(given.rows(torch.tensor([1, 4]))) is None  # too short


def test_checkpointed_activations_take_the_plain_path():
    """Transformers keep no cache while they checkpoint."""
    policy, given = tiny.policy("gpt2"), mixed()
    expected = read(policy, given)
    policy.model.activation_checkpointing_enable()
    found = read(policy, given)
    assert found.tokens > expected.tokens
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
