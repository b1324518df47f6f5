"""Weights rounded once give, bit for bit, what autocast gives by rounding them in every forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from align.engine.fast import prepacked
from align.engine.fast.casting import cast_products
from align.engine.fast.policy import FastPolicy
from align.engine.fast.prepacked import PackedLinear, why_not
from align.engine.fast.sampling_copy import sampling_copy
from align.engine.reference import Policy
from align.engine.roles import build_roles
from align.engine.sampling import Noise, sample
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
    embedding = model.get_input_embeddings().weight
    expected = bits(Policy(model, dtype))
    cast_products(model, dtype)
    assert torch.equal(bits(Policy(model, dtype)), expected)
    assert model.get_input_embeddings().weight is embedding and embedding.dtype is torch.float32
    assert model.get_output_embeddings().weight.dtype is dtype
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert linear and all(m.weight.dtype is dtype and not m.weight.requires_grad for m in linear)


def test_in_fp32_nothing_happens():
    model = tiny.causal("gpt2")
    before = {name: id(p) for name, p in model.named_parameters()}
    cast_products(model, torch.float32)
    assert before == {name: id(p) for name, p in model.named_parameters()}
    assert sampling_copy(model, torch.float32) is model


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sampling_copy_leaves_the_model_alone(shape, packed, monkeypatch):
    """Not a bit changes where weights are only rounded; in oneDNN's layout sums are taken in another order."""
    if packed and why_not(tiny.causal(shape), torch.bfloat16):
        pytest.skip("this CPU does not compute in bf16")
    monkeypatch.setattr(prepacked, "why_not", lambda *_: None if packed else "off")
    model = tiny.causal(shape)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = bits(Policy(model, torch.bfloat16))
    copy = sampling_copy(model, torch.bfloat16)
    found = bits(Policy(copy, torch.bfloat16))
    assert any(isinstance(m, PackedLinear) for m in copy.modules()) == packed
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.std()) if packed else 0)
    assert copy.get_input_embeddings().weight is model.get_input_embeddings().weight
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]) and parameter.requires_grad and parameter.dtype is torch.float32


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 70])
def test_a_packed_product_is_the_product(rows, bias):
    linear = nn.Linear(48, 80, bias=bias)
    if why_not(linear, torch.bfloat16):
        pytest.skip("this CPU does not compute in bf16")
    states = torch.randn(rows, 3, 48)
    with torch.no_grad():
        found, expected = PackedLinear(linear.weight, linear.bias)(states), linear.bfloat16()(states.bfloat16())
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7)


def test_sampling_draws_the_same_and_follows_the_next_update(monkeypatch):
    monkeypatch.setattr(prepacked, "why_not", lambda *_: "off")  # for equal bits
    settings = {"noise": Noise(0, "rollout"), "max_new_tokens": 12, "temperature": 1.0, "samples_per_prompt": 2}
    policy = FastPolicy(tiny.causal(), torch.bfloat16)
    for _ in range(2):
        found = sample(policy, tiny.chat(), tiny.prompts(4), **settings)
        plain = sample(Policy(policy.model, torch.bfloat16), tiny.chat(), tiny.prompts(4), **settings)
        assert torch.equal(found.response_ids, plain.response_ids)
        assert torch.equal(found.sampling_logprobs, plain.sampling_logprobs)
        last = plain
        tiny.nudge(policy, 0.5)
    assert not torch.equal(sample(policy, tiny.chat(), tiny.prompts(4), **settings).response_ids, last.response_ids)


def test_the_references_products_take_half_the_room_and_it_begins_at_a_kl_of_exactly_0():
    roles = build_roles(tiny.config(), device=torch.device("cpu"), dtype=torch.bfloat16, reward=None, critic_init=None)
    given = tiny.rollout_of(tiny.prompts(3), [[5, 6, 7], [8, 9], [10]])
    policy, reference = (role.response_logprobs(given, 1.0) for role in (roles.policy, roles.reference))
    assert torch.equal(policy, reference)
    assert all(p.dtype is torch.float32 for p in roles.policy.parameters())

    def size(role: Policy) -> int:
        return sum(m.weight.nbytes for m in role.modules() if isinstance(m, nn.Linear))

    assert size(roles.reference) * 2 == size(roles.policy)
