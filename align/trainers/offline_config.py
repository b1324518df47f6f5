"""Options that DPO and SFT share: methods that learn from given responses. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from align.config import Config, LoopConfig
from align.config_checks import positive


@dataclass
class OfflineConfig(LoopConfig):
    batch_size: int = 32  # pairs per optimizer update

    def check(self, config: Config) -> None:
        super().check(config)
        positive(self, "method", "batch_size")
