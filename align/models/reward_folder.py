"""A stored reward model: a folder with a sequence classifier, or an adapter and its head, and reward_model.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CARD = "reward_model.json"


@dataclass(frozen=True)
class RewardCard:
    """Measurements of a reward model's training, and what it was made from."""

    accuracy: float | None  # share of held-out pairs whose chosen response scores higher, ties counting half
    longer_wins: float | None  # the same for preferring the longer response (in tokens)
    held_out_pairs: int
    train_pairs: int
    seconds: float
    key: Mapping[str, Any] = field(default_factory=dict)  # what the model was made from; its hash names the folder
    precision: str | None = None  # of compute in training
    # How the scores of unfinished responses relate to the final one, on held-out pairs, by what was trained: `end`, and
    # `prefixes` where there was a second stage (stored/prefix_stage.py: prefix_figures)
    prefix_scores: Mapping[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Write the card into `folder`."""
        (folder / CARD).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


def read_card(folder: Path) -> RewardCard | None:
    """Read the card in `folder`; None where the folder is a plain Hugging Face checkpoint."""
    path = folder / CARD
    return RewardCard(**json.loads(path.read_text())) if path.is_file() else None


def is_adapter(folder: Path) -> bool:
    """Return whether `folder` holds an adapter rather than a whole model."""
    return (folder / "adapter_config.json").is_file()
