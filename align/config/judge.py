"""Define the training of the reward model that only judges. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from align.config.base import Section
from align.config.checks import automatic, not_negative, positive
from align.config.sources import RewardModelSource, RewardModelTraining
from align.config.values import AUTO, Rate
from align.errors import InputError

TRAIN = "train"  # the value of evaluation.reward_model that trains one on pairs set aside
KEY = "evaluation.judge"


@dataclass
class JudgeConfig(Section):
    """Training of the judge with evaluation.reward_model=train.

    Independent of the run's own reward, so that every arm of a comparison has the same judge.
    """

    learning_rate: Rate = AUTO  # peak; auto = a reward model's, by model and adapter
    epochs: int = RewardModelTraining.epochs  # over the pairs set aside
    batch_size: int = RewardModelTraining.batch_size  # pairs per optimizer update
    micro_batch_tokens: int | None = None  # padded tokens per forward and backward; null = by the model's size
    center_coef: float = RewardModelTraining.center_coef  # lambda of mean((r_c + r_r)^2)
    seed: int = RewardModelTraining.seed + 1  # of its head and the order of its pairs; not that of the run's own

    def source(self) -> RewardModelSource:
        """Describe the judge as a reward model that is trained once and stored."""
        return RewardModelSource(**{field.name: getattr(self, field.name) for field in fields(self)})

    def check(self, reward_model: str | None) -> None:
        """Raise InputError on values that cannot run, or that `evaluation.reward_model` leaves without effect."""
        automatic(self, KEY, "learning_rate")
        positive(self, KEY, "epochs", "batch_size", "micro_batch_tokens")
        not_negative(self, KEY, "center_coef", "seed")
        if reward_model == TRAIN:
            return
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                allowed = f"{field.default}, or evaluation.reward_model={TRAIN}: no judge is trained without it"
                raise InputError(f"{KEY}.{field.name}", getattr(self, field.name), allowed.replace("None", "null"))
