"""Exact gradients: align's own losses and advantages, in expectation over all responses, for a table as the policy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from align.algorithms.ppo import PPO, gae
from align.engine.protocol import TokenStats
from align.functional import kl
from align.functional.groups import STD_EPS, token_weights
from align.metrics import Tally
from align.types import Batch, Sequences, Size
from tests.oracle import methods
from tests.oracle.runs import LENGTH, TREE, Tables, loop

# Loss per token of every response, from log pi, log pi_old (a constant) and log pi_ref: all (P * R, L).
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _mask(rows: Tensor) -> Tensor:
    return TREE.mask.repeat(rows.shape[0] // len(TREE.responses), 1)


@cache
def ppo() -> PPO:
    """Whose penalty and surrogate are used, with another beta each time."""
    with tempfile.TemporaryDirectory() as folder:
        return loop(Path(folder), methods.ppo(0.0), Tables(), steps=1, batch=methods.BATCH)[0].algorithm


def penalised(rewards: Tensor, old: Tensor, ref: Tensor, beta: float) -> Tensor:
    """Rewards (P * R, L) less the KL penalty."""
    ppo().kl.coef = beta
    return ppo().subtract_kl(rewards, {"logprobs": old, "ref_logprobs": ref}, _mask(old))


def surrogate(logp: Tensor, old: Tensor, advantages: Tensor) -> tuple[Tensor, Batch]:
    """The clipped loss per token, and the batch that it was read from."""
    mask = _mask(logp)
    rows = Sequences(mask[:, :1], mask[:, :1], torch.zeros_like(mask), mask)
    batch = Batch(rows, {"logprobs": old, "advantages": advantages}, Size(len(mask), int(mask.sum())))
    logits = torch.zeros(batch.size.tokens, 1)  # of which only the entropy is reported, to nobody
    return ppo().surrogate(batch, TokenStats(logp, logits, 1.0, mask == 1), Tally()), batch


def ppo_loss(token_rewards: Tensor, beta: float) -> Loss:
    """PPO without critic at lambda 1; token_rewards (P, R, L)."""

    def loss(logp: Tensor, old: Tensor, ref: Tensor) -> Tensor:
        mask = _mask(logp)
        rewards = penalised(token_rewards.flatten(0, 1), old, ref, beta)
        advantages, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
        return surrogate(logp, old, advantages)[0]

    return loss


def grpo_loss(
    scores: Tensor, beta: float, estimator: str | None, *, scale_std: bool = False, per_response: bool = False
) -> Loss:
    """GRPO in the limit of large groups; scores (P, R). estimator: of the KL in the loss, None = KL in the reward."""

    def loss(logp: Tensor, old: Tensor, ref: Tensor) -> Tensor:
        mask, prompts = _mask(logp), scores.shape[0]
        probability = old.sum(1).exp().view(prompts, -1)
        in_reward = beta if estimator is None else 0.0
        sparse = torch.zeros_like(old)
        returns = scores + penalised(sparse, old, ref, in_reward).sum(1).view(prompts, -1)
        centred = returns - (probability * returns).sum(1, keepdim=True)
        if scale_std:
            centred = centred / ((probability * centred**2).sum(1, keepdim=True).sqrt() + STD_EPS)
        per_token, batch = surrogate(logp, old, centred.view(-1, 1) * mask)
        if estimator == "k3_corrected":
            per_token = per_token + beta * ppo().log_ratio(batch, logp).exp() * kl.k3(logp, ref)
        elif estimator is not None:
            per_token = per_token + beta * {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}[estimator](logp, ref)
        constant = None if per_response else float(LENGTH)
        weights = token_weights(mask, per_response=per_response, constant=constant, tokens=1, responses=1)
        return per_token * weights * LENGTH

    return loss


def gradient(table: Tensor, ref: Tensor, loss: Loss) -> Tensor:
    """d E[loss] / d logits (P, S, V), responses weighted with their probability, which carries no gradient."""
    logits = table.clone().requires_grad_()
    logp = TREE.token_logprobs(torch.log_softmax(logits, dim=-1)).flatten(0, 1)
    probability = logp.detach().sum(1).exp()
    reference = TREE.token_logprobs(ref).flatten(0, 1)
    expected = (probability.unsqueeze(1) * loss(logp, logp.detach(), reference) * _mask(logp)).sum()
    return torch.autograd.grad(expected, logits)[0]


def visits(table: Tensor) -> Tensor:
    """Probability that a response passes through each state: (P, S)."""
    probability = TREE.logprobs(table).exp()
    out = torch.zeros(table.shape[:2], dtype=table.dtype)
    for t in range(LENGTH):
        reached = TREE.mask[:, t] == 1
        out.index_add_(1, TREE.path[reached, t], probability[:, reached])
    return out


def solve(ref: Tensor, loss: Loss, *, rate: float, steps: int = 4000, tolerance: float = 1e-9) -> Tensor:
    """Where the gradient vanishes: natural gradient descent from the reference on, (P, S, V).

    Raises:
        AssertionError: It did not come to rest.
    """
    table = ref.clone()
    for _ in range(steps):
        slope = gradient(table, ref, loss) / (visits(table).unsqueeze(-1) * table.exp())
        table = torch.log_softmax(table - rate * slope, dim=-1)
        if float(slope.abs().max()) < tolerance:
            return table
    raise AssertionError(f"no rest after {steps} steps: slope {float(slope.abs().max()):.1e}")
