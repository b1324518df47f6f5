"""Define the options of the methods that TRL's trainers run: trl_dpo, trl_kto, trl_grpo, trl_rloo. Imports no torch.

Values of enums are TRL's names. Settings of TRL without an option here stay at TRL's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from align.config.checks import divisor, not_negative, open_fraction, positive
from align.config.method_bases import OptimizedConfig
from align.config.shapes import Examples
from align.errors import InputError

if TYPE_CHECKING:
    from align.config.schema import Config


@dataclass
class TRLConfig(OptimizedConfig):
    """Base of the methods that TRL's trainers run."""

    beta: float = 0.1  # coefficient of the KL to the start model
    micro_batch_size: int | None = None  # pairs or responses per forward and backward; null = the whole update

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "micro_batch_size")
        if config.resume is not None:
            allowed = f"another method: {self.name} keeps its final weights only, as TRL's checkpoints are pickles"
            raise InputError("resume", config.resume, allowed)


class TRLDPOLoss(Enum):
    sigmoid = "sigmoid"
    hinge = "hinge"
    ipo = "ipo"
    robust = "robust"
    exo_pair = "exo_pair"
    nca_pair = "nca_pair"
    bco_pair = "bco_pair"
    sppo_hard = "sppo_hard"
    aot = "aot"
    aot_unpaired = "aot_unpaired"
    apo_zero = "apo_zero"
    apo_down = "apo_down"
    discopop = "discopop"
    sigmoid_norm = "sigmoid_norm"


SMOOTHED = (TRLDPOLoss.robust, TRLDPOLoss.exo_pair, TRLDPOLoss.aot, TRLDPOLoss.aot_unpaired)


@dataclass
class TRLPairsConfig(TRLConfig):
    """Base of TRL's methods that learn from given responses."""

    batch_size: int = 32  # pairs per optimizer update; of labelled completions, twice as many
    learns_from = Examples.pairs

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "beta", "batch_size")
        divisor(self, "method", "micro_batch_size", "method.batch_size", self.batch_size)


@dataclass
class TRLDPOConfig(TRLPairsConfig):
    """Options of TRL's DPOTrainer."""

    name: str = "trl_dpo"
    loss: TRLDPOLoss = TRLDPOLoss.sigmoid
    label_smoothing: float = 0.0  # share of pairs whose label is taken to be flipped

    def check(self, config: Config) -> None:
        super().check(config)
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError("method.label_smoothing", self.label_smoothing, "a number from 0 to below 0.5")
        if self.label_smoothing and self.loss not in SMOOTHED:
            allowed = f"0 with method.loss={self.loss.value}: TRL smooths {', '.join(loss.value for loss in SMOOTHED)}"
            raise InputError("method.label_smoothing", self.label_smoothing, allowed)
        if not self.label_smoothing and self.loss in (TRLDPOLoss.robust, TRLDPOLoss.exo_pair):
            raise InputError("method.label_smoothing", 0.0, f"above 0 with method.loss={self.loss.value}")


class TRLKTOLoss(Enum):
    kto = "kto"
    apo_zero_unpaired = "apo_zero_unpaired"


@dataclass
class TRLKTOConfig(TRLPairsConfig):
    """Options of TRL's KTOTrainer."""

    name: str = "trl_kto"
    learns_from = Examples.labels
    loss: TRLKTOLoss = TRLKTOLoss.kto
    desirable_weight: float = 1.0  # of the chosen responses, or completions of label true
    undesirable_weight: float = 1.0  # of the rejected ones

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "desirable_weight", "undesirable_weight")
        if self.loss is not TRLKTOLoss.kto:
            return
        for key in ("batch_size", "micro_batch_size"):
            if getattr(self, key) == 1:
                raise InputError(f"method.{key}", 1, "2 pairs or more: KTO's KL needs responses to other prompts")


@dataclass
class TRLOnPolicyConfig(TRLConfig):
    """Base of TRL's methods that sample from the trained policy; one pass over each rollout."""

    beta: float = 0.05  # of the KL to the start model: in the loss with trl_grpo, in the reward with trl_rloo
    group_size: int = 8  # responses to each prompt
    minibatch_size: int = 32  # responses per optimizer update
    clip_range: float = 0.2  # the ratio pi / pi_old is clipped to 1 -+ this
    needs_reward = True
    rate_rule = "grpo"

    def check(self, config: Config) -> None:
        super().check(config)
        not_negative(self, "method", "beta")
        positive(self, "method", "minibatch_size")
        open_fraction(self, "method", "clip_range")
        credit, rows = config.reward.credit.name, config.rollout.batch_size
        if credit != "sparse":
            allowed = f"sparse with method={self.name}: TRL takes one scalar per completion"
            raise InputError("reward/credit", credit, allowed)
        if self.group_size < 2:
            raise InputError("method.group_size", self.group_size, "2 or more: a response is compared with its group")
        for key in ("group_size", "minibatch_size"):
            divisor(self, "method", key, "rollout.batch_size", rows)
        divisor(self, "method", "micro_batch_size", "method.minibatch_size", self.minibatch_size)


class TRLGRPOLoss(Enum):
    """How token losses are reduced to one number."""

    grpo = "grpo"
    bnpo = "bnpo"
    dr_grpo = "dr_grpo"
    dapo = "dapo"


class TRLScale(Enum):
    """Deviation that advantages are divided by."""

    group = "group"
    batch = "batch"
    none = "none"


@dataclass
class TRLGRPOConfig(TRLOnPolicyConfig):
    """Options of TRL's GRPOTrainer."""

    name: str = "trl_grpo"
    loss: TRLGRPOLoss = TRLGRPOLoss.dapo
    scale_rewards: TRLScale = TRLScale.group
    bias_correction_kl: bool = True  # k3 times pi / pi_old, whose gradient is the KL's


@dataclass
class TRLRLOOConfig(TRLOnPolicyConfig):
    """Options of TRL's RLOOTrainer."""

    name: str = "trl_rloo"
    normalize_advantages: bool = False  # over the rollout
