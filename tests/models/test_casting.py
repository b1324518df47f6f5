"""Weights rounded once give, bit for bit, what autocast gives by rounding them in every forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from align.models.casting import cast_copy, cast_products
from align.models.policy import Policy
from align.models.roles import build_roles
from align.rollout import Noise, sample
from tests import tiny

SHAPES = sorted(tiny.SHAPES)
HALVES = (torch.bfloat16, torch.float16)


def bits(policy: Policy) -> torch.Tensor:
    given = tiny.rollout_of(tiny.prompts(2), [[5, 6, 7], [8, 9]])
    with torch.no_grad():
        return policy.logits(given.input_ids, given.attention_mask, 3)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_bit_of_the_logits_changes(shape, dtype):
    model = tiny.causal(shape)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = bits(Policy(model, dtype))
    copy = cast_copy(model, dtype)
    assert torch.equal(bits(Policy(copy, dtype)), expected)
    # Whatever is no product's is shared; the model itself is as it was, its head still tied.
    assert copy.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert copy.get_output_embeddings().weight.dtype is dtype
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]) and parameter.requires_grad
    linear = [m for m in copy.modules() if isinstance(m, nn.Linear)]
    assert linear and all(m.weight.dtype is dtype and not m.weight.requires_grad for m in linear)
    cast_products(model, dtype)
    assert torch.equal(bits(Policy(model, dtype)), expected)


def test_in_fp32_nothing_happens():
    model = tiny.causal()
    before = {name: id(p) for name, p in model.named_parameters()}
    cast_products(model, torch.float32)
    assert before == {name: id(p) for name, p in model.named_parameters()}
    copy = cast_copy(model, torch.float32)
    assert {id(p) for p in copy.parameters()} == set(before.values())


def test_sampling_draws_the_same_and_follows_the_next_update(monkeypatch):
    settings = {"noise": Noise(0, "rollout"), "max_new_tokens": 12, "temperature": 1.0, "samples_per_prompt": 2}
    policy = Policy(tiny.causal(), torch.bfloat16)
    for _ in range(2):
        found = sample(policy, tiny.codec(), tiny.prompts(4), **settings)
        with monkeypatch.context() as patch:
            patch.setattr(Policy, "for_sampling", lambda self: self)
            plain = sample(policy, tiny.codec(), tiny.prompts(4), **settings)
        assert torch.equal(found.response_ids, plain.response_ids)
        assert torch.equal(found.sampling_logprobs, plain.sampling_logprobs)
        last = plain
        tiny.nudge(policy, 0.5)
    assert not torch.equal(sample(policy, tiny.codec(), tiny.prompts(4), **settings).response_ids, last.response_ids)


def test_the_reference_takes_half_the_room_and_begins_at_a_kl_of_exactly_0():
    roles = build_roles(tiny.config(), device=torch.device("cpu"), dtype=torch.bfloat16, reward=None, critic_init=None)
    given = tiny.rollout_of(tiny.prompts(3), [[5, 6, 7], [8, 9], [10]])
    policy, reference = (role.response_logprobs(given, 1.0) for role in (roles.policy, roles.reference))
    assert torch.equal(policy, reference)
    assert all(p.dtype is torch.float32 for p in roles.policy.parameters())

    def size(role: Policy) -> int:
        return sum(m.weight.nbytes for m in role.modules() if isinstance(m, nn.Linear))

    assert size(roles.reference) * 2 == size(roles.policy)
