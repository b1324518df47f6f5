"""State spaces beside attention or in its place: sampling from their cache, and which of their layers are adapted."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from align.config import AdapterConfig
from align.engine.engine import Engine
from align.engine.reference import Policy
from align.engine.sampling import Noise, sample
from align.errors import InputError
from align.models.adapters import POLICY, not_adapted
from align.types import Rollout
from tests import tiny
from tests.engine.reading import with_adapter

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MIXER = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "mamba2": {"head_dim": 8, "num_heads": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    "jamba": {"mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "bamba": MIXER | {"attn_layer_indices": [1]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
LLAMA4 = EXPERTS | {"head_dim": 8, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 1}


@cache
def made(kind: str) -> PreTrainedModel:
    sizes = SIZES | {"num_key_value_heads": 2, "vocab_size": 40, "pad_token_id": 0, "initializer_range": 0.2}
    sizes |= EXPERTS if kind == "jamba" else {}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **sizes | (KINDS | {"llama4_text": LLAMA4})[kind])
    )


def copied(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(made(kind).config).eval()
    model.load_state_dict(made(kind).state_dict())
    return model


@torch.no_grad()
def plain_logprobs(model: PreTrainedModel, rollout: Rollout, temperature: float) -> torch.Tensor:
    """(B, T), row by row, without padding and without a cache."""
    out = torch.zeros(rollout.response_ids.shape)
    for i in range(len(rollout)):
        prompt = rollout.prompt_ids[i][rollout.prompt_mask[i] == 1]
        response = rollout.response_ids[i][rollout.response_mask[i] == 1]
        logits = model(input_ids=torch.cat([prompt, response]).unsqueeze(0), use_cache=False).logits[0].float()
        logp = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)
        out[i, : len(response)] = logp.gather(1, response.unsqueeze(1)).squeeze(1)
    return out


def drawn(policy: Policy) -> Rollout:
    """Padded prompts in groups, some of whose rows leave the cache early."""
    settings = {"noise": Noise(0, "rollout"), "max_new_tokens": 24, "temperature": 1.5, "samples_per_prompt": 4}
    rollout = sample(policy, tiny.chat(), tiny.prompts(5), **settings)
    early = float((rollout.lengths < 24).float().mean())
    assert len(set(rollout.prompt_mask.sum(1).tolist())) > 1 and 0.3 < early < 1  # the cache was cut, and went on
    return rollout


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_while_sampling_are_those_of_plain_calls(kind: str, adapter: bool) -> None:
    model = copied(kind)
    if adapter:
        policy = with_adapter(model, torch.float32)
        assert policy.shared is not None
        plain = policy.shared.merged(POLICY)
        assert plain is not None
    else:
        policy, plain = Engine().policy(model, torch.float32), model
    rollout = drawn(policy)
    expected = plain_logprobs(plain, rollout, 1.5)
    assert torch.allclose(rollout.sampling_logprobs, expected, atol=1e-4)
    assert torch.allclose(policy.response_logprobs(rollout, 1.5), expected, atol=1e-4)
    assert float(expected[rollout.response_mask == 1].std()) > 0.2


@pytest.mark.parametrize("kind", [*KINDS, "llama4_text"])
def test_every_adapter_is_read_and_gets_a_gradient(kind: str) -> None:
    policy = with_adapter(copied(kind), torch.float32)
    policy(drawn(policy), 1.0).logprobs.sum().backward()
    names = policy.trained_parameters()
    assert names and all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in names.values())
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in names}
    assert not adapted & {"x_proj", "dt_proj", "router"} and ("out_proj" in adapted) == (kind == "lfm2")


def test_what_gets_no_adapter() -> None:
    assert not_adapted(tiny.causal("llama")) == not_adapted(copied("lfm2")) == []
    layers = [f"backbone.layers.{i}.mixer.{name}" for i in range(2) for name in ("x_proj", "dt_proj", "out_proj")]
    assert not_adapted(copied("mamba")) == layers
    assert not_adapted(copied("llama4_text")) == [f"model.layers.{i}.feed_forward.router" for i in range(2)]


@pytest.mark.parametrize(("kind", "target"), [("mamba", "out_proj"), ("lfm2", "nothing_of_that_name")])
def test_targets_that_cannot_be_are_refused_in_one_line(kind: str, target: str) -> None:
    with pytest.raises(InputError, match=f"adapter.target_modules: given '{target}'; allowed: layers of "):
        Engine().shared_base(copied(kind), AdapterConfig(name="lora", target_modules=target))
