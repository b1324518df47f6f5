"""What is special to Llama must stay out: every method on other architectures, against their own plain forward."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from align.config import AdapterConfig, MethodConfig, RewardConfig, RewardModelSource, SparseCredit
from align.config.methods import DPOConfig, GRPOConfig, KLConfig, PPOConfig, SFTConfig
from align.engine.sampling import Noise, sample
from align.types import Sequences
from tests import tiny

# Learned positions; grouped heads; soft-capped logits and a window; learned positions with an offset; a window.
SHAPES = ("gpt2", "qwen2", "gemma2", "opt", "mistral")
WINDOW = 6  # tokens, of gemma2 and mistral here: shorter than what they read
RATE = 1e-3


@cache
def plain(shape: str) -> PreTrainedModel:
    """The model as transformers load it, with the attention that is spelt out."""
    return AutoModelForCausalLM.from_pretrained(tiny.folder(shape), attn_implementation="eager").eval()


@torch.no_grad()
def plain_logprobs(shape: str, batch: Sequences, temperature: float = 1.0) -> torch.Tensor:
    """(B, T), row by row and without padding; 0 outside the mask."""
    out = torch.zeros(batch.response_ids.shape)
    for i in range(len(batch)):
        prompt = batch.prompt_ids[i][batch.prompt_mask[i] == 1]
        response = batch.response_ids[i][batch.response_mask[i] == 1]
        logits = plain(shape)(input_ids=torch.cat([prompt, response]).unsqueeze(0)).logits[0].float() / temperature
        logp = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
        out[i, : len(response)] = logp.gather(1, response.unsqueeze(1)).squeeze(1)
    return out


def given() -> Sequences:
    texts = ("abcde", "q", "hello", "nevermore", "zy", "x")
    return tiny.rollout_of(tiny.prompts(6), [tiny.said(t) for t in texts])


@pytest.mark.parametrize("shape", SHAPES)
def test_logprobs_of_a_padded_batch_equal_a_plain_forward(shape):
    batch = given()
    assert int((batch.prompt_mask == 0).sum()) > 0 < int((batch.response_mask == 0).sum())
    assert int(batch.attention_mask.sum(1).min()) > WINDOW
    logp = tiny.policy(shape).response_logprobs(batch, 1.0)
    assert torch.allclose(logp, plain_logprobs(shape, batch), atol=1e-4)
    assert float(logp[batch.response_mask == 1].std()) > 0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_logprobs_while_sampling_equal_recomputed_ones(shape):
    """Also of the rows that go on in the cache after others have left it."""
    policy = tiny.policy(shape)
    rollout = sample(
        policy,
        tiny.chat(),
        tiny.prompts(6),
        noise=Noise(0, "rollout"),
        max_new_tokens=24,
        temperature=1.5,
        samples_per_prompt=6,
    )
    early = (rollout.ended & (rollout.lengths < 24)).float().mean()
    assert 0.25 < early < 1 and int(rollout.lengths.max()) == 24  # the cache was cut, and went on
    assert torch.allclose(rollout.sampling_logprobs, plain_logprobs(shape, rollout, 1.5), atol=1e-4)
    assert torch.allclose(rollout.sampling_logprobs, policy.response_logprobs(rollout, 1.5), atol=1e-4)


METHODS: dict[str, MethodConfig] = {
    "ppo": PPOConfig(learning_rate=RATE, minibatch_size=8, kl=KLConfig(coef=0.05)),
    "grpo": GRPOConfig(learning_rate=RATE, minibatch_size=8, group_size=4),
    "dpo": DPOConfig(learning_rate=RATE, batch_size=4),
    "sft": SFTConfig(learning_rate=RATE, batch_size=4),
}


def one_update(path, shape: str, method: MethodConfig, *, lora: bool = False, reward: RewardConfig | None = None):
    """Metrics of a run's first update, and how far it moved the policy."""
    adapter = AdapterConfig(name="lora", r=4, alpha=8) if lora else None
    rollout = {"batch_size": 8}
    config = tiny.config(shape=shape, adapter=adapter, reward=reward, rollout=rollout, max_steps=1)
    config.method = method
    method.check(config)
    made, seen = tiny.loop(path, config, pairs=[tiny.pair(p, "aei", "zzyxw") for p in tiny.prompts(4)])
    policy = made.run.roles.policy
    tiny.nudge(policy)  # adapters start as no change, and would hide a pass that reads another one
    before = tiny.weights(policy)
    made.advance()
    moved = max(float((a - b).abs().max()) for a, b in zip(tiny.weights(policy), before, strict=True))
    return seen.records[0], moved


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_method_updates(tmp_path, shape, method, lora):
    """On-policy methods also check that the ratio is 1 on their first minibatch."""
    metrics, moved = one_update(tmp_path, shape, METHODS[method], lora=lora)
    assert all(math.isfinite(v) for v in metrics.values())
    assert metrics["policy/grad_norm"] > 1e-4
    assert RATE / 2 < moved < 2 * RATE  # Adam's first step


@pytest.mark.parametrize("shape", SHAPES)
def test_ppo_with_a_reward_model_of_the_architecture(tmp_path, shape):
    """Its classifier has a linear `score` head, from which the critic starts."""
    source = RewardModelSource(path=str(tiny.reward_folder(shape)))
    metrics, _ = one_update(tmp_path, shape, METHODS["ppo"], reward=RewardConfig(source=source, credit=SparseCredit()))
    assert all(math.isfinite(v) for v in metrics.values())
    assert abs(metrics["value/mean"]) > 1e-4
