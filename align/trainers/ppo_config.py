"""Options of `method=ppo`. Torch-free: the configuration is checked before anything slow is imported."""

from __future__ import annotations

from dataclasses import dataclass

from align.config import Config, CriticInit
from align.config_checks import fraction, not_negative, positive
from align.errors import InputError
from align.trainers.on_policy_config import OnPolicyConfig


@dataclass
class PPOConfig(OnPolicyConfig):
    name: str = "ppo"
    critic_learning_rate: float = 1.0e-3
    value_clip_range: float = 0.2
    vf_coef: float = 0.1  # the critic has its own weights and Adam: felt only where its gradient is clipped
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False  # by the deviation only, the mean stays
    whiten_advantages: bool = True
    critic_init: CriticInit = CriticInit.auto
    critic_warmup_steps: int = 0  # updates of the critic alone at the start

    @property
    def critic(self) -> CriticInit:
        return self.critic_init

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "critic_learning_rate", "value_clip_range", "vf_coef")
        not_negative(self, "method", "critic_warmup_steps")
        fraction(self, "method", "gamma", "lam")
        if config.reward.credit.name in ("prefix", "truth") and self.gamma != 1:
            allowed = f"1 with reward/credit={config.reward.credit.name}: its rewards are parts of undiscounted scores"
            raise InputError("method.gamma", self.gamma, allowed)
        if self.critic_init is CriticInit.reward_model and config.reward.source.name != "reward_model":
            allowed = f"auto or policy: reward/source={config.reward.source.name} has no reward model"
            raise InputError("method.critic_init", "reward_model", allowed)
        if self.critic_warmup_steps >= config.max_steps:
            allowed = f"fewer than max_steps={config.max_steps}, or the policy is never updated"
            raise InputError("method.critic_warmup_steps", self.critic_warmup_steps, allowed)
