"""Options that PPO and GRPO share. Torch-free: the configuration is checked before anything slow is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from align.config import Config, KLController, LoopConfig, Section
from align.config_checks import not_negative, open_fraction, positive
from align.errors import InputError


class RatioLevel(Enum):
    """Of what pi / pi_old is clipped."""

    token = "token"
    sequence = "sequence"  # the mean log-ratio of the response's tokens: GSPO


@dataclass
class KLConfig(Section):
    """The penalty -coef * (log pi - log pi_ref) per token, in the reward."""

    coef: float = 0.05  # beta
    controller: KLController = KLController.fixed
    target: float = 6.0  # nats per response, adaptive controller only
    horizon: int = 10_000  # responses, adaptive controller only
    budget: float | None = None  # nats per response; the run ends, as it then is, when a rollout's mean KL exceeds it


@dataclass
class OnPolicyConfig(LoopConfig):
    """Base of the methods that sample from the policy they train."""

    epochs: int = 1  # passes over each rollout
    minibatch_size: int = 32  # responses per optimizer update
    clip_range: float = 0.2
    kl: KLConfig = field(default_factory=KLConfig)
    target_kl: float | None = None  # nats per token, old -> new policy: ends a rollout's updates early
    missing_eos_penalty: float | None = -1.0  # replaces the score of a response cut at the length limit

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "epochs", "minibatch_size", "target_kl")
        open_fraction(self, "method", "clip_range")
        not_negative(self.kl, "method.kl", "coef")
        positive(self.kl, "method.kl", "target", "horizon", "budget")
        if self.kl.controller is KLController.adaptive and self.kl.coef == 0:
            raise InputError("method.kl.coef", 0.0, "above 0: the adaptive controller multiplies it")
        if config.rollout.batch_size % self.minibatch_size:
            allowed = f"a divisor of rollout.batch_size={config.rollout.batch_size}"
            raise InputError("method.minibatch_size", self.minibatch_size, allowed)
