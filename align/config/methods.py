"""Define the options of the methods on align's own training loop. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from align.config.base import Section
from align.config.checks import automatic, divisor, fraction, not_negative, open_fraction, positive
from align.config.method_bases import CriticInit, LoopConfig, MethodConfig
from align.config.shapes import Examples
from align.config.values import AUTO, Rate, settled_rate
from align.errors import InputError

if TYPE_CHECKING:
    from align.config.schema import Config


@dataclass
class OfflineConfig(LoopConfig):
    """Base of the methods that learn from given responses: preference pairs, unless a method names others."""

    batch_size: int = 32  # pairs per optimizer update; demonstrations of sft
    learns_from = Examples.pairs

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "batch_size")


@dataclass
class SFTConfig(OfflineConfig):
    """Supervised fine-tuning on demonstrations: of preference pairs, the chosen responses."""

    name: str = "sft"
    learns_from = Examples.demonstrations
    rate_rule = "sft"


class DPOLoss(Enum):
    """Loss of a pair's margin: the chosen response's log-ratio to the reference minus the rejected one's."""

    sigmoid = "sigmoid"  # DPO; with label_smoothing cDPO
    robust = "robust"  # unbiased under flipped labels; needs label_smoothing
    ipo = "ipo"
    hinge = "hinge"


@dataclass
class DPOConfig(OfflineConfig):
    """Direct preference optimisation (arXiv 2305.18290)."""

    name: str = "dpo"
    beta: float = 0.1  # scale of the log-ratios
    loss: DPOLoss = DPOLoss.sigmoid
    label_smoothing: float = 0.0  # share of pairs whose label is taken to be flipped
    reference_free: bool = False  # without a reference; with length_normalised and margin: SimPO
    length_normalised: bool = False  # log-probabilities per token instead of per response
    margin: float = 0.0  # gamma of SimPO: what beta times the margin must reach

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "beta")
        not_negative(self, "method", "margin")
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError("method.label_smoothing", self.label_smoothing, "a number from 0 to below 0.5")
        if self.label_smoothing and self.loss not in (DPOLoss.sigmoid, DPOLoss.robust):
            raise InputError("method.label_smoothing", self.label_smoothing, f"0 with method.loss={self.loss.value}")
        if self.loss is DPOLoss.robust and not self.label_smoothing:
            raise InputError("method.label_smoothing", 0.0, "above 0 with method.loss=robust")
        if self.margin and self.loss is not DPOLoss.sigmoid:
            raise InputError("method.margin", self.margin, f"0 with method.loss={self.loss.value}")


@dataclass
class RewardModelMethodConfig(MethodConfig):
    """Train the reward model that `reward.source` describes, and no policy."""

    name: str = "reward_model"
    learns_from = Examples.pairs
    trains = False
    needs_reward = True

    def check(self, config: Config) -> None:
        source = config.reward.source.name
        if source != "reward_model":
            raise InputError("reward/source", source, "reward_model, which is what method=reward_model trains")


@dataclass
class BestOfNConfig(MethodConfig):
    """Sample n responses to each held-out prompt and keep the one with the highest score; trains nothing."""

    name: str = "best_of_n"
    n: int = 8  # responses to each held-out prompt
    trains = False
    needs_reward = True

    def check(self, config: Config) -> None:
        positive(self, "method", "n")


class RatioLevel(Enum):
    """Level at which the ratio pi / pi_old is taken and clipped."""

    token = "token"
    sequence = "sequence"  # the mean log-ratio of the response's tokens: GSPO


class KLController(Enum):
    """How the coefficient of the KL penalty moves."""

    fixed = "fixed"
    adaptive = "adaptive"


@dataclass
class KLConfig(Section):
    """The penalty -coef * (log pi - log pi_ref) per token, in the reward."""

    coef: float = 0.1  # beta
    controller: KLController = KLController.fixed
    target: float = 6.0  # nats per response, adaptive controller only
    horizon: int = 10_000  # responses, adaptive controller only
    budget: float | None = None  # nats per response; the run ends once a rollout's mean KL exceeds it


@dataclass
class OnPolicyConfig(LoopConfig):
    """Base of the methods that sample from the policy they train."""

    epochs: int = 1  # passes over each rollout
    minibatch_size: int = 32  # responses per optimizer update
    clip_range: float = 0.2  # the ratio pi / pi_old is clipped to 1 -+ this
    kl: KLConfig = field(default_factory=KLConfig)
    target_kl: float | None = None  # nats per token, old -> new policy: ends a rollout's updates early
    needs_reward = True

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "epochs", "minibatch_size", "target_kl")
        open_fraction(self, "method", "clip_range")
        not_negative(self.kl, "method.kl", "coef")
        positive(self.kl, "method.kl", "target", "horizon", "budget")
        if self.kl.controller is KLController.adaptive and self.kl.coef == 0:
            raise InputError("method.kl.coef", 0.0, "above 0: the adaptive controller multiplies it")
        divisor(self, "method", "minibatch_size", "rollout.batch_size", config.rollout.batch_size)


@dataclass
class PPOConfig(OnPolicyConfig):
    """Proximal policy optimisation (arXiv 1707.06347), with a critic."""

    name: str = "ppo"
    rate_rule = "ppo"
    minibatch_size: int = 16  # responses per optimizer update
    critic_learning_rate: Rate = AUTO
    value_clip_range: float = 0.2
    vf_coef: float = 0.1  # felt only where the critic's gradient is clipped, since the critic has its own Adam
    gamma: float = 1.0  # discount per token
    lam: float = 0.95  # lambda of GAE
    whiten_rewards: bool = False  # divide by the deviation; the mean stays
    whiten_advantages: bool = True
    critic_init: CriticInit = CriticInit.auto
    critic_warmup_steps: int = 0  # updates of the critic alone at the start

    @property
    def critic(self) -> CriticInit:
        return self.critic_init

    @property
    def critic_rate(self) -> float:
        """Learning rate of the critic, once it is settled."""
        return settled_rate(self.critic_learning_rate)

    def check(self, config: Config) -> None:
        super().check(config)
        automatic(self, "method", "critic_learning_rate")
        positive(self, "method", "value_clip_range", "vf_coef")
        not_negative(self, "method", "critic_warmup_steps")
        fraction(self, "method", "gamma", "lam")
        if config.reward.credit.name in ("prefix", "truth") and self.gamma != 1:
            allowed = f"1 with reward/credit={config.reward.credit.name}: its rewards are parts of undiscounted scores"
            raise InputError("method.gamma", self.gamma, allowed)
        if self.critic_init is CriticInit.reward_model and not config.reward.source.models():
            allowed = f"auto or policy: reward/source={config.reward.source.name} has no reward model"
            raise InputError("method.critic_init", "reward_model", allowed)
        if self.critic_warmup_steps >= config.max_steps:
            allowed = f"fewer than max_steps={config.max_steps}, or the policy is never updated"
            raise InputError("method.critic_warmup_steps", self.critic_warmup_steps, allowed)


class Baseline(Enum):
    """Score that a response's own is compared with."""

    group = "group"  # the group's mean, GRPO
    leave_one_out = "leave_one_out"  # the mean of the others, RLOO


class LossLength(Enum):
    """How a response's token losses are reduced to one number."""

    response = "response"  # their mean: GRPO
    token = "token"  # every token of the update counts the same: DAPO
    constant = "constant"  # their sum over rollout.max_new_tokens: Dr. GRPO


class KLPlace(Enum):
    """Place of the KL penalty. Only the penalty in the reward keeps the KL-regularised optimum."""

    reward = "reward"
    loss = "loss"


class KLEstimator(Enum):
    """Estimator of the KL in the loss. Each moves the optimum, because none counts how a token changes the KL of the
    tokens after it, as the penalty in the reward does.

    In brackets: share of the value gap to the optimum that exact gradients close, over several problems.
    """

    k1 = "k1"  # its expected gradient is 0: no penalty at all on fresh samples
    k2 = "k2"  # the gradient of each token's KL given its prefix (.81-1.00)
    k3 = "k3"  # the gradient of KL(ref || pi) instead of KL(pi || ref) (.09-.92)
    k3_corrected = "k3_corrected"  # times pi / pi_old: k2's gradient (.81-1.00)


@dataclass
class GroupKLConfig(KLConfig):
    """The KL penalty of GRPO, in the loss or in the reward."""

    coef: float = 0.05  # beta
    place: KLPlace = KLPlace.loss
    estimator: KLEstimator = KLEstimator.k3  # with place=loss


@dataclass
class GRPOConfig(OnPolicyConfig):
    """Group-relative policy optimisation (arXiv 2402.03300): PPO without a critic."""

    name: str = "grpo"
    rate_rule = "grpo"
    group_size: int = 8  # responses to each prompt
    baseline: Baseline = Baseline.group
    scale_std: bool = True  # divide by the group's deviation, moving the optimum of KL in the loss; false: Dr. GRPO
    loss_length: LossLength = LossLength.response
    clip_high: float | None = None  # null = clip_range on both sides; DAPO: 0.28
    ratio: RatioLevel = RatioLevel.token
    kl: GroupKLConfig = field(default_factory=GroupKLConfig)

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "clip_high")
        if self.group_size < 2:
            raise InputError("method.group_size", self.group_size, "2 or more: a response is compared with its group")
        divisor(self, "method", "group_size", "rollout.batch_size", config.rollout.batch_size)
        if self.baseline is Baseline.leave_one_out and config.reward.credit.name != "sparse":
            allowed = "group: dense rewards are centred over the group's tokens"
            raise InputError("method.baseline", "leave_one_out", allowed)
