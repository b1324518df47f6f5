"""An adapter merged into a copy for sampling: the same policy, an untouched base, and a copy that goes away."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from align.config import AdapterConfig
from align.engine.engine import Engine
from align.engine.fast.policy import FastPolicy
from align.engine.reference import Policy
from align.engine.sampling import Noise, sample
from align.models.adapters import POLICY
from tests import tiny


def policies(shape: str, dtype: torch.dtype = torch.float32) -> tuple[Policy, Policy]:
    """A policy with an adapter that has moved, and the reference below it."""
    base = tiny.causal(shape).to(dtype)
    engine = Engine()
    shared = engine.shared_base(base, AdapterConfig(name="lora", r=4, alpha=8))
    shared.train(POLICY)
    policy = engine.policy(base, dtype, shared, POLICY)
    tiny.nudge(policy, 0.2)
    return policy, engine.policy(base, dtype, shared, None)


@pytest.mark.parametrize("shape", sorted(tiny.SHAPES))
def test_a_merged_copy_is_the_policy_and_leaves_the_base_alone(shape):
    """To 1e-4 of the logits; not a bit of the base changes, and no weight is copied that no adapter touches."""
    policy, reference = policies(shape)
    before = [p.clone() for p in policy.model.parameters()]
    flags = [p.requires_grad for p in policy.model.parameters()]
    merged = policy.for_sampling()
    assert merged is not policy
    given = tiny.rollout_of(tiny.prompts(4), [[5, 9, 2], [6, 7, 8, 11, 2], [9], [30, 4, 17, 2]])
    with torch.no_grad():
        expected = policy.logits(given.input_ids, given.attention_mask, 5)
        found = merged.logits(given.input_ids, given.attention_mask, 5)
        bare = reference.logits(given.input_ids, given.attention_mask, 5)
    real = given.response_mask == 1
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=5e-5)
    assert (bare[real] - expected[real]).abs().max() > 0.1
    assert tiny.same(list(policy.model.parameters()), before)
    assert [p.requires_grad for p in policy.model.parameters()] == flags
    assert merged.model.get_input_embeddings().weight is policy.model.get_input_embeddings().weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampling_with_a_merged_copy_frees_it(dtype, monkeypatch):
    """Also without the garbage collector, which may come late; in bf16 with layers of its own, where the CPU has it."""
    policy, _ = policies("llama", dtype)
    settings = {"noise": Noise(0, "rollout"), "max_new_tokens": 12, "temperature": 1.0, "samples_per_prompt": 4}
    copies = []
    make = FastPolicy.for_sampling

    def kept(self: Policy) -> Policy:
        copy = make(self)
        assert copy.model is not self.model
        copies.append(weakref.ref(copy.model))
        return copy

    monkeypatch.setattr(FastPolicy, "for_sampling", kept)
    gc.disable()
    try:
        sample(policy, tiny.chat(), tiny.prompts(8), **settings)
        assert copies[0]() is None
    finally:
        gc.enable()
