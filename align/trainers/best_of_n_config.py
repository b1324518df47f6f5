"""Options of `method=best_of_n`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from align.config import Config, MethodConfig
from align.config_checks import positive


@dataclass
class BestOfNConfig(MethodConfig):
    name: str = "best_of_n"
    n: int = 8  # responses to each held-out prompt, of which the reward source chooses one

    @property
    def trains(self) -> bool:
        return False

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "n")
