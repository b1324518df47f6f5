"""The world's own reward, exact: per response, and per token through the character spans of its segments."""

from __future__ import annotations

import torch

from align.functional.credit import prefix_sums
from align.functional.credit import spans as span_rewards
from align.rewards.base import Source
from align.types import RewardInput, RewardOutput
from align.worlds import World


class GoldScorer(Source):
    """Scorer by the rule that made the world: the upper bound of any reward model."""

    def __init__(self, world: World) -> None:
        self._world = world

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        mask = batch.rollout.response_mask
        rows = zip(batch.rows, batch.responses, batch.rollout.ended.tolist(), strict=True)
        golds = [self._world.gold(row, response, ended) for row, response, ended in rows]
        spans = [[(s.start, s.end, s.credit) for s in gold.segments] for gold in golds]
        total = torch.tensor([gold.total for gold in golds], device=mask.device)
        tokens = span_rewards(spans, batch.offsets, mask)
        prefixes = prefix_sums(tokens) if "prefix_scores" in needs else None
        return RewardOutput(total, {"gold": total}, token_scores=tokens, prefix_scores=prefixes, spans=spans)
