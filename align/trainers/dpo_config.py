"""Options of `method=dpo`. Torch-free: the configuration is checked before anything slow is imported."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from align.config import Config
from align.config_checks import not_negative, positive
from align.errors import InputError
from align.trainers.offline_config import OfflineConfig


class DPOLoss(Enum):
    sigmoid = "sigmoid"  # DPO; with label_smoothing cDPO
    robust = "robust"  # unbiased under flipped labels; needs label_smoothing
    ipo = "ipo"
    hinge = "hinge"


@dataclass
class DPOConfig(OfflineConfig):
    name: str = "dpo"
    beta: float = 0.1
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
