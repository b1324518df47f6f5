"""A cache with room for tokens to come: what sampling from transformers' own gives, through rows that leave it."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers.cache_utils import DynamicLayer
from transformers.cache_utils import DynamicSlidingWindowLayer as SLIDING

from align.engine import cache
from align.engine.fast.policy import FastPolicy
from align.engine.fast.roomy_cache import RoomyLayer, growing_cache
from align.engine.reference import Policy
from align.engine.sampling import Noise, sample
from tests import tiny


def test_appending_copies_only_when_there_is_no_room():
    layer, plain = RoomyLayer(room=4), DynamicLayer()
    torch.manual_seed(0)
    places = []
    for step in range(12):
        keys, values = torch.randn(2, 3, 5 if step == 0 else 1, 4), torch.randn(2, 3, 5 if step == 0 else 1, 4)
        for found, expected in zip(layer.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(found, expected)
        if step == 7:
            for each in (layer, plain):
                each.batch_select_indices(torch.tensor([1, 0]))
        places.append(layer.keys.data_ptr())
    assert len(set(places[1:6])) == 1  # one allocation holds the token that found no room and four more
    assert layer.get_seq_length() == 16


@pytest.mark.parametrize("shape", sorted(tiny.SHAPES))
def test_under_autocast_what_is_held_is_what_attention_reads(shape, monkeypatch):
    """Rounded once instead of for every token: the same bits as of a cache that holds more."""
    settings = {"noise": Noise(0, "rollout"), "max_new_tokens": 12, "temperature": 1.0, "samples_per_prompt": 2}
    policy = FastPolicy(tiny.causal(shape), torch.bfloat16)
    monkeypatch.setattr(FastPolicy, "for_sampling", lambda self: self)
    found = sample(policy, tiny.chat(), tiny.prompts(4), **settings)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        _, held = policy.prefill(ids, torch.ones_like(ids))
    roomy = [layer for layer in held.layers if isinstance(layer, RoomyLayer)]
    assert {t.dtype for layer in roomy for t in (layer.keys, layer.values)} <= {torch.bfloat16}
    plain = sample(Policy(policy.model, torch.bfloat16), tiny.chat(), tiny.prompts(4), **settings)
    assert torch.equal(found.response_ids, plain.response_ids)
    assert torch.equal(found.sampling_logprobs, plain.sampling_logprobs)


def test_gradients_get_a_cache_that_passes_them_on():
    model = tiny.causal()
    assert {type(layer) for layer in growing_cache(model).layers} == {DynamicLayer}
    with torch.no_grad():
        assert {type(layer) for layer in growing_cache(model).layers} == {RoomyLayer}


@pytest.mark.parametrize("shape", sorted(tiny.SHAPES))
def test_the_cache_goes_under_the_name_that_the_model_knows(shape):
    """No deprecation, no keyword that is swallowed, and decoding goes on from what was read."""
    policy, ids = tiny.policy(shape), torch.tensor([[5, 6, 7], [8, 9, 10]])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", FutureWarning)
        _, held = policy.prefill(ids, torch.ones_like(ids))
        assert cache.cache_name(policy.model) in cache.NAMES and isinstance(held.layers[0], (RoomyLayer, SLIDING))
        logits = policy.decode(torch.tensor([11, 12]), torch.ones(2, 4, dtype=torch.long), held)
    whole = torch.cat([ids, torch.tensor([[11], [12]])], dim=1)
    torch.testing.assert_close(logits, policy.logits(whole, torch.ones_like(whole), 1)[:, 0], rtol=0, atol=1e-5)
