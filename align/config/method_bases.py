"""Define the options that methods share: optimizer, learning-rate schedule, micro-batches. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from align.config.base import MISSING, Section
from align.config.checks import automatic, not_negative, positive
from align.config.shapes import Examples
from align.config.values import AUTO, Rate, settled_rate
from align.errors import InputError

if TYPE_CHECKING:
    from align.config.schema import Config


class LRSchedule(Enum):
    constant = "constant"
    linear = "linear"  # to 0 at max_steps


class CriticInit(Enum):
    """Weights that the critic starts from."""

    auto = "auto"  # the reward model where the run has one, else the policy
    reward_model = "reward_model"
    policy = "policy"  # the policy's body under a zero head


@dataclass
class MethodConfig(Section):
    """Base of every method's options."""

    name: str = MISSING
    trains: ClassVar[bool] = True  # whether the method updates the policy's parameters
    needs_reward: ClassVar[bool] = False  # whether the method learns from, or chooses by, the run's reward
    learns_from: ClassVar[Examples] = Examples.prompts  # what the data must give it

    @property
    def critic(self) -> CriticInit | None:
        """Weights that the critic starts from; None for a method without a critic."""
        return None

    def check(self, config: Config) -> None:
        """Raise InputError on values that cannot run; `config` is the whole configuration."""


@dataclass
class OptimizedConfig(MethodConfig):
    """Base of the methods that take gradient steps, on align's own training loop or on TRL's."""

    learning_rate: Rate = AUTO  # peak; of the policy where a critic has its own; auto = by method, model and adapter
    rate_rule: ClassVar[str] = "dpo"  # of align/config/automatic.py, by which `auto` is settled
    lr_schedule: LRSchedule = LRSchedule.constant
    warmup_steps: int = 0  # updates in which the learning rate rises linearly
    adam_eps: float = 1.0e-5  # N+ implementation details, arXiv 2403.17031
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # gradients are clipped to this norm

    @property
    def rate(self) -> float:
        """Learning rate, once it is settled."""
        return settled_rate(self.learning_rate)

    def check(self, config: Config) -> None:
        super().check(config)
        automatic(self, "method", "learning_rate")
        positive(self, "method", "adam_eps", "max_grad_norm")
        not_negative(self, "method", "warmup_steps", "weight_decay")
        if len(self.adam_betas) != 2 or not all(0 <= beta < 1 for beta in self.adam_betas):
            raise InputError("method.adam_betas", list(self.adam_betas), "two numbers from 0 up to, but not, 1")
        if self.warmup_steps >= config.max_steps:
            raise InputError("method.warmup_steps", self.warmup_steps, f"fewer than max_steps={config.max_steps}")
        if self.lr_schedule is LRSchedule.linear and config.max_policy_tokens is not None:
            allowed = "constant with max_policy_tokens, under which the last step is not known"
            raise InputError("method.lr_schedule", "linear", allowed)


@dataclass
class LoopConfig(OptimizedConfig):
    """Base of the methods on align's own training loop."""

    micro_batch_tokens: int | None = None  # padded tokens per forward and backward; null = by the model's size
    max_bad_steps: int = 3  # non-finite updates that are skipped in all before the run stops

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "micro_batch_tokens", "max_bad_steps")
