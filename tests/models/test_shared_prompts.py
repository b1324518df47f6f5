"""A prompt read once for its rows gives what each row gives alone: padding, grouped heads, windows, soft caps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from align.config import AdapterConfig
from align.models import policy as policy_module
from align.models.adapters import POLICY, SharedBase
from align.models.inputs import shared_prompts
from align.models.policy import Policy
from align.types import Sequences
from tests import tiny

SHAPES = sorted(tiny.SHAPES)
PROMPT = 50  # tokens of the longest


def batch() -> Sequences:
    """Rows of three prompts of 50, 31 and 7 tokens, in mixed order, with responses of 1 to 9."""
    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        return torch.randint(4, 33, (n,), generator=generator).tolist()

    prompts = [replace(tiny.prompt(i, "x"), input_ids=tuple(tokens(n))) for i, n in enumerate((PROMPT, 31, 7))]
    rows = [prompts[i] for i in (0, 1, 0, 2, 1, 0, 2, 0)]
    return tiny.rollout_of(rows, [tokens(n) for n in (9, 1, 4, 6, 9, 2, 8, 5)])


def lora(shape: str) -> Policy:
    base = tiny.causal(shape)
    shared = SharedBase(base, AdapterConfig(name="lora", r=4, alpha=8))
    shared.train(POLICY)
    policy = Policy(base, torch.float32, shared, POLICY)
    tiny.nudge(policy, 0.2)  # B matrices begin at 0
    return policy


def read(policy: Policy, given: Sequences) -> tuple[Tensor, dict[str, Tensor], int]:
    """Log-probabilities of the responses' tokens, gradients of a weighted sum of them, and tokens that were read."""
    count = 0

    def add(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
        nonlocal count
        count += inputs[0].numel()

    handle = policy.model.get_input_embeddings().register_forward_hook(add)
    policy.zero_grad()
    mask = given.response_mask == 1
    logp = policy(given, 0.9).logprobs[mask]
    (logp * torch.linspace(-1, 1, len(logp))).sum().backward()
    handle.remove()
    gradients = {k: p.grad.clone() for k, p in policy.trained_parameters().items() if p.grad is not None}
    return logp.detach(), gradients, count


@pytest.mark.parametrize("make", [tiny.policy, lora])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shared_prompt_gives_the_log_probabilities_and_gradients_of_rows_by_themselves(shape, make, monkeypatch):
    """To 2e-5 nats, and to 1e-4 of each gradient's largest entry."""
    policy, given = make(shape), batch()
    shared = read(policy, given)
    monkeypatch.setattr(policy_module, "shared_prompts", lambda _batch: None)
    monkeypatch.setattr(policy_module, "reads_packed", lambda _model: False)
    plain = read(policy, given)
    assert shared[2] < 0.6 * plain[2]
    torch.testing.assert_close(shared[0], plain[0], rtol=0, atol=2e-5)
    assert shared[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(shared[1][name], gradient, rtol=0, atol=1e-4 * size + 1e-6, msg=name)


def test_prompts_are_shared_where_that_saves_enough():
    given = batch()
    different, masks, which = shared_prompts(given)
    assert torch.equal(different[which], given.prompt_ids) and torch.equal(masks[which], given.prompt_mask)
    assert len(different) == 3
    assert shared_prompts(given.rows(torch.tensor([0, 1, 3]))) is None  # each has its own
    assert shared_prompts(given.rows(torch.tensor([1, 4]))) is None  # too short


def test_checkpointed_activations_take_the_plain_path():
    """Transformers keep no cache while they checkpoint."""
    policy, given = tiny.policy("gpt2"), batch()
    expected = read(policy, given)
    policy.model.activation_checkpointing_enable()
    found = read(policy, given)
    assert found[2] > expected[2]
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=2e-5)
