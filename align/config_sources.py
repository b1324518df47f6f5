"""The reward sources beyond a single reward model and a world's gold reward. Reached through `align.config`.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum

from align.config_checks import classifier_folder, model_folder, not_negative
from align.config_sections import Config, Normalise, RewardModelSource, RewardModelTraining
from align.errors import InputError


class Combine(Enum):
    """How the scores of an ensemble's members become one (Coste et al., arXiv 2310.02743, and a variant)."""

    mean = "mean"
    minimum = "minimum"  # worst-case optimisation
    mean_minus_variance = "mean_minus_variance"  # uncertainty-weighted optimisation: mean - penalty * variance
    mean_minus_std = "mean_minus_std"  # the same in the score's own unit


@dataclass
class EnsembleSource(RewardModelTraining):
    """Several reward models as one, each put on the scale of the start model's responses first.

    Trained members differ in their seed, and so in the head they start from and the order of their data; member i is
    the single reward model of seed + i, and is stored and found as such.
    """

    name: str = "ensemble"
    members: int = 3  # trained from the run's data, beside those given by path
    paths: list[str] = field(default_factory=list)  # stored reward models or sequence classifiers
    combine: Combine = Combine.mean
    penalty: float = 0.5  # of the members' variance or deviation, over all members (divided by their number)

    def models(self) -> list[RewardModelSource]:
        shared = {f.name: getattr(self, f.name) for f in fields(RewardModelTraining) if f.name != "name"}
        own = shared | {"normalise": Normalise.reference, "clip": None}
        trained = [RewardModelSource(**own | {"seed": self.seed + i}) for i in range(self.members)]
        return [RewardModelSource(**own, path=path) for path in self.paths] + trained

    def path_fields(self) -> list[str]:
        return ["paths"]

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        not_negative(self, key, "members", "penalty")
        for i, path in enumerate(self.paths):
            model_folder(f"{key}.paths[{i}]", path)
            classifier_folder(f"{key}.paths[{i}]", path)
        if self.members + len(self.paths) < 2:
            raise InputError(f"{key}.members", self.members, "2 or more in all, those of paths included")
