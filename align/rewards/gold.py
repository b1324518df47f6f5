"""The world's own reward, exact: per response, and per token through the character spans of its segments."""

from __future__ import annotations

import torch

from align.functional.credit import prefix_sums
from align.functional.credit import spans as span_rewards
from align.types import RewardInput, RewardOutput
from align.worlds import World


class GoldScorer:
    """Scorer by the rule that made the world: the upper bound of any reward model."""

    def __init__(self, world: World) -> None:
        self._world = world

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        mask = batch.rollout.response_mask
        ended = batch.rollout.ended.tolist()
        golds = [
            self._world.gold(row, response, end)
            for row, response, end in zip(batch.rows, batch.responses, ended, strict=True)
        ]
        spans = [[(s.start, s.end, s.credit) for s in gold.segments] for gold in golds]
        total = torch.tensor([gold.total for gold in golds], device=mask.device)
        token_scores = span_rewards(spans, batch.offsets, mask)
        prefix = prefix_sums(token_scores) if "prefix_scores" in needs else None
        return RewardOutput(
            total=total, parts={"gold": total}, token_scores=token_scores, prefix_scores=prefix, spans=spans
        )
