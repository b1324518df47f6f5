"""Prompts that are read once for their rows: which, and where."""

from __future__ import annotations

import pytest
import torch

from align.engine.engine import Engine
from align.engine.fast.limits import Limits
from align.engine.fast.shared_prompts import shared_from, shared_prompts
from align.types import Sequences
from tests import tiny
from tests.engine.reading import batch, read

LIMITS = Limits()


def mixed() -> Sequences:
    """Rows of three prompts of 50, 31 and 7 tokens, in mixed order, with responses of 1 to 9."""
    return batch((50, 31, 7), (9, 1, 4, 6, 9, 2, 8, 5), (0, 1, 0, 2, 1, 0, 2, 0))


def test_prompts_are_shared_where_that_saves_enough():
    given = mixed()
    different, masks, which = shared_prompts(given, LIMITS)
    assert torch.equal(different[which], given.prompt_ids) and torch.equal(masks[which], given.prompt_mask)
    assert len(different) == 3
    assert shared_prompts(given.rows(torch.tensor([0, 1, 3])), LIMITS) is None  # each has its own
    assert shared_prompts(given.rows(torch.tensor([1, 4])), LIMITS) is None  # too short


def test_checkpointed_activations_take_the_plain_path():
    """Transformers keep no cache while they checkpoint."""
    policy, given = tiny.policy("gpt2"), mixed()
    expected = read(policy, given)
    policy.model.activation_checkpointing_enable()
    found = read(policy, given)
    assert found.tokens > expected.tokens
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("shape", "under_checkpointing"), [("llama", True), ("gpt2", False)])
def test_tokens_that_are_read_once_for_all_rows_of_a_prompt(shape, under_checkpointing):
    """Short prompts are not shared; a cache would not survive a second forward pass, which packed rows do without."""
    policy, shortest = tiny.policy(shape), LIMITS.shared_from
    mask = torch.zeros(3, shortest + 2)
    for row, length in enumerate((shortest - 1, shortest, shortest + 2)):
        mask[row, -length:] = 1
    expected = [0, shortest, shortest + 2]
    assert policy.shared_tokens(mask).tolist() == expected
    policy.model.activation_checkpointing_enable()
    assert policy.shared_tokens(mask).tolist() == (expected if under_checkpointing else [0, 0, 0])


def test_on_a_gpu_longer_prompts_alone_are_read_once():
    """Two passes cost it more; the device that stands in for one is any that is no CPU."""
    limits = Limits(shared_from=51, shared_from_on_gpu=256)
    assert shared_from(torch.ones(2, 3, device="meta"), limits) == 256 and shared_from(torch.ones(2, 3), limits) == 51
    policy = Engine(limits=limits).policy(tiny.causal(), torch.float32)
    assert policy.shared_tokens(torch.ones(2, 51)).tolist() == [51, 51]
    assert policy.shared_tokens(torch.ones(2, 50)).tolist() == [0, 0]
    assert shared_prompts(batch((50,), (3, 3, 3), (0, 0, 0)), limits) is None
    assert shared_prompts(batch((51,), (3, 3, 3), (0, 0, 0)), limits) is not None
