"""The same weights and the same batch on both sides: a method on the loop, and what TRL needs beside it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from align.callbacks.base import Callback
from align.config import MethodConfig
from align.loop.loop import Loop
from align.loop.protocol import Examples
from align.metrics import Tally
from align.rewards import GoldScorer
from align.types import Pair, Size
from tests import tiny
from tests.contexts import loop_of, run_context

RELATIVE = 1e-5


def pairs() -> list[Pair]:
    """Prompts and responses of different lengths on both sides."""
    texts = [("abcde", "x"), ("q", "zzyx"), ("hello", "hold"), ("no", "nevermore")]
    return [tiny.pair(p, *t) for p, t in zip(tiny.prompts(4), texts, strict=True)]


def loop(
    path: Path,
    method: MethodConfig,
    *,
    moved: bool = True,
    steps: int = 4,
    callbacks: Sequence[Callback] = (),
    **rollout: Any,
) -> Loop:
    """The method on the loop, whose policy has moved away from its reference (`moved`), on the sparse gold reward."""
    config = tiny.config(rollout=rollout, method={"minibatch_size": 1}, max_steps=steps)
    config.method = method
    method.check(config)
    given = {"prompts": tiny.prompts(), "pairs": pairs(), "callbacks": callbacks}
    run = run_context(path, config, tiny.chat(), source=GoldScorer(tiny.VowelWorld()), **given)
    if moved:
        tiny.nudge(run.roles.policy)
    return loop_of(run)


def backward(
    made: Loop, parts: Sequence[Sequence[int]], tally: Tally | None = None, examples: Examples | None = None
) -> float:
    """Loss of a minibatch in these micro-batches, of all pairs unless told; its gradient stays in the policy."""
    given = made.algorithm.collect(made.progress) if examples is None else examples
    index = torch.tensor([i for part in parts for i in part])
    size, tally = Size(len(index), int(given.response_tokens[index].sum())), Tally() if tally is None else tally
    return sum(made.updates._backward(given.rows(torch.tensor(part), size), 0, tally) for part in parts)


def other_model() -> nn.Module:
    """For TRL, which changes the forward pass of what it is given: a copy of the nudged policy."""
    policy = tiny.policy()
    tiny.nudge(policy)
    return copy.deepcopy(policy.model)


def gradients(model: nn.Module) -> torch.Tensor:
    """All of them in one row, in the order of the names; the model is left without."""
    named = sorted(model.named_parameters())
    row = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for _, p in named])
    model.zero_grad(set_to_none=True)
    return row


def assert_equal(loss: float, slope: torch.Tensor, their_loss: float, their_slope: torch.Tensor) -> None:
    assert loss == pytest.approx(their_loss, rel=RELATIVE, abs=1e-7)
    assert float(their_slope.norm()) > 1e-4
    assert float((slope - their_slope).norm() / their_slope.norm()) < RELATIVE
