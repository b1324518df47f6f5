"""The world's own reward, exact: per response, and per token through the character spans of its segments."""

from __future__ import annotations

import torch

from align.types import RewardInput, RewardOutput
from align.worlds import World


class GoldSource:
    """Scores with the rule that made the world; the best any reward model could be."""

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
        token_scores = span_rewards(spans, batch.offsets, mask.cpu()).to(mask.device)
        prefix = None
        if "prefix_scores" in needs:
            prefix = torch.nn.functional.pad(token_scores.cumsum(1), (1, 0))
        return RewardOutput(
            total=total, parts={"gold": total}, token_scores=token_scores, prefix_scores=prefix, spans=spans
        )


def span_rewards(spans: list[list[tuple[int, int, float]]], offsets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Each span's score at the token that holds its last character: (B, T), summing to the spans' scores.

    Fine-grained RLHF, arXiv 2306.01693, section 3.1. A span past the text's end is paid at the last token.

    Args:
        spans: Per response (start, end, score) in characters.
        offsets: (B, T, 2) characters of each token.
        mask: (B, T), 1 = counts.
    """
    rewards = torch.zeros(mask.shape)
    for i, row in enumerate(spans):
        last = int(mask[i].sum()) - 1
        for start, end, score in row:
            final = max(end - 1, start)
            holds = ((offsets[i, :, 0] <= final) & (offsets[i, :, 1] > final) & (mask[i] == 1)).nonzero()
            rewards[i, int(holds[0]) if len(holds) else last] += score
    return rewards
