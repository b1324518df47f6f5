"""Heads that share keys and values, read together: what transformers' own attention gives."""

from __future__ import annotations

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from align.models import sampling_copy
from align.models.attention import NAME, packed_attention, packs_heads
from align.rollout import Noise, sample
from tests import tiny


class Module(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 4])
def test_it_is_transformers_attention(length, masked):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, length, 8, generator=generator)
    key, value = (torch.randn(2, 2, 9, 8, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, length, 9, generator=generator) < 0.7 if masked or length > 1 else None
    found, weights = packed_attention(Module(), query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(Module(), query, key, value, mask, scaling=0.3)
    assert weights is None and found.shape == (2, length, 6, 8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", sorted(tiny.SHAPES))
def test_sampling_draws_what_it_draws_without(shape, monkeypatch):
    """Prompts of one length, so that there is no mask to keep transformers from the slow kernel."""
    policy, prompts = tiny.policy(shape), tiny.prompts(1) * 3
    settings = {"noise": Noise(0, "rollout"), "max_new_tokens": 10, "temperature": 1.0, "samples_per_prompt": 2}
    found = sample(policy, tiny.codec(), prompts, **settings)
    used = policy.for_sampling().model.config._attn_implementation
    assert (used == NAME) == packs_heads(policy.model)
    assert policy.model.config._attn_implementation != NAME
    monkeypatch.setattr(sampling_copy, "packs_heads", lambda model: False)
    plain = sample(policy, tiny.codec(), prompts, **settings)
    assert torch.equal(found.response_ids, plain.response_ids)
    torch.testing.assert_close(found.sampling_logprobs, plain.sampling_logprobs, rtol=0, atol=1e-5)


def test_some_shapes_share_keys_and_others_do_not():
    assert {packs_heads(tiny.causal(shape)) for shape in tiny.SHAPES} == {True, False}
