"""What an engine makes of loaded models: of the configured kind, and nothing fast under engine=reference."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from align.config import AdapterConfig, EngineKind
from align.engine.engine import Engine
from align.engine.fast.policy import FastPolicy
from align.engine.fast.value_head import FastValueHead
from align.engine.reference import Policy, ValueHead
from align.engine.roles import build_roles
from tests import tiny


@pytest.mark.parametrize("kind", EngineKind)
def test_roles_are_of_the_configured_kind(kind):
    config = tiny.config(engine=kind)
    roles = build_roles(config, device=tiny.CPU, dtype=torch.float32, reward=None, critic_init=config.method.critic)
    fast = kind is EngineKind.auto
    assert type(roles.policy) is type(roles.reference) is (FastPolicy if fast else Policy)
    assert type(roles.critic) is (FastValueHead if fast else ValueHead)


def test_the_reference_engine_leaves_models_and_memory_as_they_are():
    engine, model = Engine(EngineKind.reference), tiny.causal()
    engine.freeze(engine.policy(model, torch.bfloat16), model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not any(
        p.requires_grad for p in model.parameters()
    )
    shared = engine.shared_base(tiny.causal(), AdapterConfig(name="lora", r=4, alpha=8))
    head = engine.value_head(tiny.causal().model, nn.Linear(24, 1), torch.float32)
    for module in (model, shared.model, head.body):
        assert not any(type(part).__module__.startswith("align") for part in module.modules())
    assert head.body.config._attn_implementation == model.config._attn_implementation == "sdpa"
    assert isinstance(engine.memory(tiny.CPU), nullcontext)
