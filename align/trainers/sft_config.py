"""Options of `method=sft`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from align.trainers.offline_config import OfflineConfig


@dataclass
class SFTConfig(OfflineConfig):
    name: str = "sft"
