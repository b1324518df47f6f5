"""Responses that count: those that have a score, and those that are learned from."""

import torch
from torch import Tensor

from align.config import RolloutConfig, Truncated
from align.types import LEARNED, SCORED, RewardOutput, Rollout


def counted_rows(output: RewardOutput, rollout: Rollout, settings: RolloutConfig) -> dict[str, Tensor]:
    """Return the columns (B,) of responses that have a score and of those that are learned from, where not all do.

    A cut response has the score of truncation where there is one, whether or not the source applies to it.
    """
    columns = {}
    scored, learned = output.scored, torch.ones_like(rollout.ended)
    if settings.truncation_score is not None:
        scored = scored | ~rollout.ended
    if settings.truncated is Truncated.mask:
        learned = rollout.ended
    if not bool(scored.all()):
        columns[SCORED] = scored.float()
    if not bool((scored & learned).all()) or settings.truncated is Truncated.mask:
        columns[LEARNED] = (scored & learned).float()
    return columns
