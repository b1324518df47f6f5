"""Options of `method=reward_model`: none of its own, as they stand under `reward.source`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from align.config import Config, MethodConfig
from align.errors import InputError


@dataclass
class RewardModelMethodConfig(MethodConfig):
    name: str = "reward_model"

    @property
    def trains(self) -> bool:
        return False

    def check(self, config: Config) -> None:
        super().check(config)
        source = config.reward.source.name
        if source != "reward_model":
            raise InputError("reward/source", source, "reward_model, which is what method=reward_model trains")
