"""Models of every kind, and a policy's reading of a batch, to compare one way of reading it with another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from align.config import AdapterConfig
from align.engine.engine import Engine
from align.engine.reference import Policy, ValueHead
from align.models.adapters import POLICY
from align.types import Sequences
from tests import tiny


def batch(prompts: Sequence[int], responses: Sequence[int], which: Sequence[int] | None = None) -> Sequences:
    """Rows of these many response tokens behind prompts of these many; `which` prompt each row has, its own if None."""
    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        return torch.randint(4, 33, (n,), generator=generator).tolist()

    made = [replace(tiny.prompt(i, "x"), input_ids=tuple(tokens(n))) for i, n in enumerate(prompts)]
    rows = made if which is None else [made[i] for i in which]
    return tiny.rollout_of(rows, [tokens(n) for n in responses])


def kind_of_model(kind: str, **settings: object) -> PreTrainedModel:
    """Of two layers, wide enough for its distributions to be far from uniform, under transformers' own attention."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40, "pad_token_id": 0}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": None, "initializer_range": 0.3}
    config = AutoConfig.for_model(kind, **sizes | settings)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def with_adapter(base: PreTrainedModel, dtype: torch.dtype, alpha: int = 8, engine: Engine | None = None) -> Policy:
    engine = engine or Engine()
    shared = engine.shared_base(base, AdapterConfig(name="lora", r=4, alpha=alpha))
    shared.train(POLICY)
    policy = engine.policy(base, dtype, shared, POLICY)
    tiny.nudge(policy, 0.2)  # B matrices begin at 0
    return policy


def plain(policy: Policy) -> Policy:
    """The same weights, and attention, read by the reference engine."""
    return Policy(policy.model, policy.dtype, policy.shared, policy.adapter)


def lora(shape: str) -> Policy:
    return with_adapter(tiny.causal(shape), torch.float32)


class Reading(NamedTuple):
    logprobs: Tensor  # of the tokens that count
    entropy: Tensor
    gradients: dict[str, Tensor]  # of a weighted sum of the log-probabilities
    tokens: int  # that went through the model


def read(policy: Policy, given: Sequences) -> Reading:
    counts: list[int] = []
    embeddings = policy.model.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda _module, inputs, _output: counts.append(inputs[0].numel()))
    policy.zero_grad()
    stats = policy(given, 0.9)
    mask = given.response_mask == 1
    logp = stats.logprobs[mask]
    (logp * torch.linspace(-1, 1, len(logp))).sum().backward()
    handle.remove()
    return Reading(logp.detach(), stats.entropy[mask], gradients(policy), sum(counts))


def gradients(role: Policy | ValueHead) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in role.trained_parameters().items() if p.grad is not None}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 1e-4 of each gradient's largest entry and 1e-6 of the model's.

    A key's bias has a gradient of 0 by theory, as a softmax does not see what is added to all of its scores: of it
    there is nothing but rounding errors of larger numbers.
    """
    assert found.keys() == expected.keys() and expected
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        within = 1e-4 * float(gradient.abs().max()) + 1e-6 * largest
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=within, msg=name)
