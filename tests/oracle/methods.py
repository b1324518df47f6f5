"""The settings in which the methods are proven: what defines the objective is varied, how it is climbed is not."""

from __future__ import annotations

from typing import Any

import torch

from align.config import LRSchedule
from align.config.methods import (
    DPOConfig,
    GroupKLConfig,
    GRPOConfig,
    KLConfig,
    KLEstimator,
    KLPlace,
    LossLength,
    PPOConfig,
)
from align.types import Pair
from tests.oracle.runs import TREE, Tables, chat, prompts

STEPS, BATCH = 160, 384  # updates, responses per rollout
CLIMB: dict[str, Any] = {"learning_rate": 1e-3, "lr_schedule": LRSchedule.linear, "micro_batch_tokens": 100_000}
ON_POLICY: dict[str, Any] = CLIMB | {
    "minibatch_size": BATCH,
    "epochs": 4,
    "clip_range": 0.1,
}


def ppo(beta: float, **settings: Any) -> PPOConfig:
    return PPOConfig(**(ON_POLICY | {"kl": KLConfig(coef=beta), "critic_learning_rate": 5e-3} | settings))


def grpo(beta: float, place: KLPlace, estimator: KLEstimator = KLEstimator.k3, **settings: Any) -> GRPOConfig:
    """Dr. GRPO unless told otherwise: responses summed, the group's mean taken off."""
    objective = {
        "group_size": 32,
        "scale_std": False,
        "loss_length": LossLength.constant,
        "kl": GroupKLConfig(coef=beta, place=place, estimator=estimator),
    }
    return GRPOConfig(**(ON_POLICY | objective | settings))


def dpo(beta: float, **settings: Any) -> DPOConfig:
    return DPOConfig(**(CLIMB | {"beta": beta, "batch_size": 256} | settings))


def bradley_terry(tables: Tables, count: int, seed: int = 0) -> list[Pair]:
    """Pairs of different responses, uniformly drawn; the chosen one wins with probability s(r_1 - r_2)."""
    generator = torch.Generator().manual_seed(seed)
    starts, pairs = prompts(), []
    n = len(TREE.responses)
    for _ in range(count):
        p = int(torch.randint(len(starts), (), generator=generator))
        first, second = torch.randperm(n, generator=generator)[:2].tolist()
        wins = torch.rand((), generator=generator) < torch.sigmoid(tables.scores[p, first] - tables.scores[p, second])
        chosen, rejected = (TREE.responses[i] for i in ((first, second) if wins else (second, first)))
        pairs.append(Pair(starts[p], chat().decode(chosen), chat().decode(rejected), chosen, rejected))
    return pairs
