"""PEFT's LoRA layers in one product: PEFT's own numbers, and PEFT's own code for all that is not plain LoRA."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from align.config import AdapterConfig
from align.engine.compat import make_lora_layers
from align.engine.engine import Engine
from align.engine.fast import fused_lora as lora
from align.engine.fast.fused_lora import FusedLoraLinear
from align.engine.reference import Policy
from align.models.adapters import CRITIC, POLICY, lora_config
from tests import tiny

SETTINGS = AdapterConfig(name="lora", r=4, alpha=6)


def policy(shape: str, dtype: torch.dtype = torch.float32) -> Policy:
    base, engine = tiny.causal(shape).to(dtype), Engine()
    shared = engine.shared_base(base, SETTINGS)
    shared.add(CRITIC)
    shared.train(POLICY)
    made = engine.policy(base, dtype, shared, POLICY)
    tiny.nudge(made, 0.2)
    return made


def through(made: Policy) -> list[torch.Tensor]:
    """Log-probabilities of given responses and the gradient of their sum by every trained weight."""
    given = tiny.rollout_of(tiny.prompts(4), [[5, 9, 2], [6, 7, 8, 11, 2], [9], [30, 4, 17, 2]])
    weights = list(made.trained_parameters().values())
    logprobs = made(given, 1.0).logprobs.masked_fill(given.response_mask == 0, 0)
    with made.active():
        return [logprobs.detach(), *torch.autograd.grad(logprobs.sum(), weights)]


def test_in_bf16_it_is_nearer_to_fp32_than_pefts_layer():
    """The update is rounded once: distances of log-probabilities and gradients relative to their size, in sum."""
    exact = through(policy("llama"))
    far = {}
    for name, forward in (("ours", FusedLoraLinear.forward), ("theirs", Linear.forward)):
        with mock.patch.object(FusedLoraLinear, "forward", forward):
            found = through(policy("llama", torch.bfloat16))
        far[name] = sum(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    assert far["ours"] < 1.05 * far["theirs"]


def layer(**settings: object) -> FusedLoraLinear:
    torch.manual_seed(0)
    config = LoraConfig(**({"r": 2, "target_modules": ["0"], "init_lora_weights": False} | settings))
    make_lora_layers(config, FusedLoraLinear)
    made = get_peft_model(nn.Sequential(nn.Linear(6, 4)), config).base_model.model[0]
    assert type(made) is FusedLoraLinear
    return made


def disable(made: FusedLoraLinear) -> None:
    made.enable_adapters(False)


def merge(made: FusedLoraLinear) -> None:
    made.merge()


def two(made: FusedLoraLinear) -> None:
    config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    made.update_layer("more", 2, lora_alpha=8, config=config)
    made.set_adapter(["default", "more"])


def train_base(made: FusedLoraLinear) -> None:
    made.get_base_layer().weight.requires_grad_()


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({}, disable),
        ({}, merge),
        ({}, two),
        ({}, train_base),
        ({"bias": "lora_only"}, lambda made: made.get_base_layer().bias.requires_grad_()),
        ({"lora_dropout": 0.5}, lambda made: None),
        ({"lora_bias": True}, lambda made: None),
        ({"use_dora": True}, lambda made: None),
    ],
)
def test_what_is_not_plain_is_pefts(settings, change):
    made = layer(**settings)
    change(made)
    states = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    with mock.patch.object(lora, "lora_linear", side_effect=AssertionError("not for this")):
        torch.manual_seed(2)  # of dropout
        found = made(states)
    torch.manual_seed(2)
    assert torch.equal(found, Linear.forward(made, states))


@pytest.mark.parametrize("mixed", [True, False])
def test_types_that_differ_are_pefts(mixed):
    """Without autocast, as TRL's trainers run it, fp32 adapters on a bf16 base; with it a base that is in fp32."""
    made = layer()
    states = torch.randn(3, 6)
    if not mixed:
        made.get_base_layer().to(torch.bfloat16)
        states = states.bfloat16()
    with (
        mock.patch.object(lora, "lora_linear", side_effect=AssertionError("not for this")),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed),
    ):
        assert made(states).dtype is torch.bfloat16


def test_what_is_saved_loads_with_peft_alone(tmp_path):
    made = policy("llama")
    made.save(tmp_path)
    alone = PeftModel.from_pretrained(tiny.causal(), tmp_path)
    assert {type(m) for m in alone.modules() if isinstance(m, Linear)} == {Linear}
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        found = alone(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        expected = made.logits(ids, torch.ones_like(ids), 4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_others_that_make_adapters_get_pefts_layer():
    """The reward model's trainer is TRL's."""
    made = get_peft_model(tiny.causal(), lora_config(SETTINGS, "CAUSAL_LM"))
    assert not any(isinstance(m, FusedLoraLinear) for m in made.modules())
