"""Options of `method=grpo`. Torch-free: the configuration is checked before anything slow is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from align.config import Config
from align.config_checks import positive
from align.errors import InputError
from align.trainers.on_policy_config import KLConfig, OnPolicyConfig, RatioLevel


class Baseline(Enum):
    """What a response's score is compared with."""

    group = "group"  # the group's mean, GRPO
    leave_one_out = "leave_one_out"  # the mean of the others, RLOO


class LossLength(Enum):
    """How a response's token losses become one number."""

    response = "response"  # their mean: GRPO
    token = "token"  # every token of the update counts the same: DAPO
    constant = "constant"  # their sum over rollout.max_new_tokens: Dr. GRPO


class KLPlace(Enum):
    """Where the KL penalty stands. Only in the reward does it keep the KL-regularised optimum."""

    reward = "reward"
    loss = "loss"


class KLEstimator(Enum):
    """Of the KL in the loss; each moves the optimum (share of the value gap closed by exact gradients, by problem).

    None counts what a token does to the KL of the tokens after it; only the KL in the reward does.
    """

    k1 = "k1"  # its expected gradient is 0: no penalty at all on fresh samples
    k2 = "k2"  # the gradient of each token's KL given its prefix (.81-1.00)
    k3 = "k3"  # the gradient of KL(ref || pi) instead of KL(pi || ref) (.09-.92)
    k3_corrected = "k3_corrected"  # times pi / pi_old: k2's gradient (.81-1.00)


@dataclass
class GroupKLConfig(KLConfig):
    place: KLPlace = KLPlace.loss
    estimator: KLEstimator = KLEstimator.k3  # with place=loss


@dataclass
class GRPOConfig(OnPolicyConfig):
    name: str = "grpo"
    group_size: int = 8  # responses to each prompt
    baseline: Baseline = Baseline.group
    scale_std: bool = True  # divide by the group's deviation: moves the optimum of KL in the loss; false for Dr. GRPO
    loss_length: LossLength = LossLength.response
    clip_high: float | None = None  # null = clip_range on both sides; DAPO: 0.28
    ratio: RatioLevel = RatioLevel.token
    kl: GroupKLConfig = field(default_factory=GroupKLConfig)

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "clip_high")
        if self.group_size < 2:
            raise InputError("method.group_size", self.group_size, "2 or more: a response is compared with its group")
        if config.rollout.batch_size % self.group_size:
            allowed = f"a divisor of rollout.batch_size={config.rollout.batch_size}"
            raise InputError("method.group_size", self.group_size, allowed)
        if self.baseline is Baseline.leave_one_out and config.reward.credit.name != "sparse":
            allowed = "group: dense rewards are centred over the group's tokens"
            raise InputError("method.baseline", "leave_one_out", allowed)
