"""Attention on CPUs: what transformers' own gives, for whole models, and theirs wherever ours is not for it."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from align.config import AdapterConfig, ModelConfig
from align.engine.fast import cpu_attention as attention
from align.engine.fast.cpu_attention import CHECKED, MOST_KEYS, MOST_QUERIES, NAME, cpu_attention
from align.engine.policy import Policy
from align.engine.sampling import Noise, sample
from align.models.adapters import POLICY, SharedBase
from align.models.load import load_causal_lm
from tests import tiny

OURS = [shape for shape in sorted(tiny.SHAPES) if tiny.model_config(shape).model_type in CHECKED]


QUERIES = MOST_QUERIES[torch.float32]


class Module(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


def inputs(length: int, keys: int, seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = ((2, 6, length, 8), (2, 2, keys, 8), (2, 2, keys, 8))
    return [torch.randn(shape, generator=rng) for shape in shapes]


@pytest.mark.parametrize("causal", [None, True, False])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "keys"), [(1, 9), (4, 9), (9, 9)])
def test_it_is_transformers_attention(length, keys, masked, causal):
    query, key, value = inputs(length, keys)
    mask = torch.rand(2, 1, length, keys, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None
    if masked:
        mask[..., 0] = True
    settings = {"scaling": 0.3, "is_causal": causal}
    found, weights = cpu_attention(Module(), query, key, value, mask, **settings)
    expected, _ = sdpa_attention_forward(Module(), query, key, value, mask, **settings)
    assert weights is None and found.shape == (2, length, 6, 8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "keys", "mask", "settings", "ours"),
    [
        (4, 9, "bool", {}, True),
        (9, 9, None, {}, True),
        (QUERIES, MOST_KEYS, "bool", {}, True),
        (QUERIES + 1, MOST_KEYS, "bool", {}, False),
        (4, MOST_KEYS + 1, "bool", {}, False),
        (4, 9, None, {}, False),  # causal from the upper left, in transformers' reading
        (4, 9, "added", {}, False),
        (4, 9, "bool", {"dropout": 0.5}, False),
        (4, 4, None, {"position_bias": torch.zeros(1, 6, 4, 4)}, False),
    ],
)
def test_which_hands_it_is_in(length, keys, mask, settings, ours):
    query, key, value = inputs(length, keys)
    masks = {None: None, "bool": torch.ones(2, 1, length, keys, dtype=torch.bool), "added": torch.zeros(1, 1, 4, 9)}
    with mock.patch.object(attention, "grouped_attention", wraps=attention.grouped_attention) as used:
        out, _ = cpu_attention(Module(), query, key, value, masks[mask], scaling=0.3, **settings)
    assert used.called == ours and out.shape == (2, length, 6, 8)


def test_what_is_checked_is_switched_and_nothing_else():
    for shape in tiny.SHAPES:
        assert (tiny.causal(shape).config._attn_implementation == NAME) == (shape in OURS)
    assert {"llama", "qwen2"} <= set(OURS) != set(tiny.SHAPES)
    for asked in ("sdpa", "eager"):
        config = ModelConfig(path=str(tiny.folder()), attn_implementation=asked)
        model = load_causal_lm(config, dtype=torch.float32, device=tiny.CPU)
        assert model.config._attn_implementation == asked


def test_nothing_of_it_is_stored(tmp_path):
    """What a run leaves loads with transformers alone."""
    tiny.causal().save_pretrained(tmp_path)
    assert NAME not in "".join(p.read_text() for p in tmp_path.glob("*.json"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def gradients(policy: Policy, dtype: torch.dtype) -> list[torch.Tensor]:
    """Log-probabilities of padded rows that share prompts in part, and the gradient of a weighted sum of them."""
    starts = tiny.prompts(3)
    batch = tiny.rollout_of(starts, [[4, 5, 6, 7, 8], [9, 4], [5, 5, 5], [6], [7, 8, 9], [4, 6, 8, 4]], samples=2)
    policy.dtype = dtype
    stats = policy(batch, 1.0)
    weights = torch.linspace(-1, 1, stats.logprobs.numel()).view(stats.logprobs.shape) * batch.response_mask
    with policy.active():
        (stats.logprobs * weights).sum().backward()
    found = [p.grad for p in policy.trained_parameters().values() if p.grad is not None]
    return [stats.logprobs.detach() * batch.response_mask, *found]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("shape", OURS)
def test_a_models_log_probabilities_and_gradients(shape, lora):
    """In fp32 equal; in bf16 as near to fp32's as transformers' own, all tensors together."""

    def of(name: str | None, dtype: torch.dtype) -> list[torch.Tensor]:
        config = ModelConfig(path=str(tiny.folder(shape)), attn_implementation=name)
        model = load_causal_lm(config, dtype=dtype if lora else torch.float32, device=tiny.CPU)
        if not lora:
            return gradients(Policy(model, dtype), dtype)
        shared = SharedBase(model, AdapterConfig(name="lora", r=4, alpha=8))
        shared.train(POLICY)
        policy = Policy(model, dtype, shared, POLICY)
        torch.manual_seed(0)
        tiny.nudge(policy)
        return gradients(policy, dtype)

    def off(found: list[torch.Tensor], truth: list[torch.Tensor]) -> float:
        """In norm, relative to each tensor's own."""
        parts = [
            float((a - b).float().norm() / b.float().norm().clamp(min=1e-6)) for a, b in zip(found, truth, strict=True)
        ]
        return (sum(part**2 for part in parts) / len(parts)) ** 0.5

    truth = of("sdpa", torch.float32)
    assert len(truth) > 5 and off(of(None, torch.float32), truth) < 1e-5
    ours, theirs = of(None, torch.bfloat16), of("sdpa", torch.bfloat16)
    assert not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))  # they are two ways
    assert off(ours, truth) < 1.3 * off(theirs, truth)


@pytest.mark.parametrize("kind", sorted(CHECKED))
def test_every_kind_gives_what_it_gives_under_sdpa(kind):
    """Logits and gradients at places that are no padding; a sliding window where the kind has one."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40, "pad_token_id": 0}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 5, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), attn_implementation="sdpa").eval()
    ids = torch.randint(1, 40, (3, 11))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0

    def figures() -> list[torch.Tensor]:
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits[mask == 1]
        (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum().backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    theirs = figures()
    attention.use_cpu_attention(model)
    assert model.config._attn_implementation == NAME
    with mock.patch.object(attention, "grouped_attention", wraps=attention.grouped_attention) as used:
        ours = figures()
    assert used.call_count == 2
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max().clamp(min=1)))


@pytest.mark.parametrize("shape", OURS)
def test_sampling_draws_what_it_draws_without(shape):
    """Prompts of one length, so that there is no mask to keep transformers from the slow kernel."""
    prompts = tiny.prompts(1) * 3
    settings = {"noise": Noise(0, "rollout"), "max_new_tokens": 10, "temperature": 1.0, "samples_per_prompt": 2}
    found = sample(tiny.policy(shape), tiny.chat(), prompts, **settings)
    config = ModelConfig(path=str(tiny.folder(shape)), attn_implementation="sdpa")
    plain = Policy(load_causal_lm(config, dtype=torch.float32, device=tiny.CPU), torch.float32)
    expected = sample(plain, tiny.chat(), prompts, **settings)
    assert torch.equal(found.response_ids, expected.response_ids)
    torch.testing.assert_close(found.sampling_logprobs, expected.sampling_logprobs, rtol=0, atol=1e-5)
