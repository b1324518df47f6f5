"""Exact scores by a world's own reward, and scores of a reward model that reads the policy's own tokens."""

import torch
from torch import Tensor

from align.activity import Activity
from align.engine.budget import FORWARD_TOKENS
from align.engine.protocol import PrefixScorer
from align.functional.batching import token_batches
from align.functional.credit import last_token, prefix_sums
from align.functional.credit import spans as span_rewards
from align.functional.masked import masked_sum
from align.rewards.base import Source
from align.types import RewardInput, RewardOutput, Rollout
from align.worlds import World


class GoldScorer(Source):
    """Scorer by the rule that made the world, per response and segment: the upper bound of any reward model."""

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


class RewardModelScorer(Source):
    """Scorer by a value head at each response's last token; the same causal forward pass scores every prefix."""

    def __init__(
        self, value_head: PrefixScorer, token_budget: int = FORWARD_TOKENS, *, activity: Activity | None = None
    ) -> None:
        self._head, self._budget, self._activity = value_head, token_budget, activity or Activity()

    @torch.no_grad()
    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        rollout = batch.rollout
        (n, width), device = rollout.response_ids.shape, rollout.response_ids.device
        prefix = torch.zeros(n, width + 1, device=device)
        attention = torch.zeros(n, width, device=device) if "attention" in needs else None
        parts = token_batches(rollout.attention_mask.sum(1), self._budget)
        for index in self._activity.over(parts, "responses scored", n):
            part = rollout.rows(index)
            t = part.response_ids.shape[1]
            scores, weights = self._forward(part, attention is not None)
            prefix[index, : t + 1] = scores
            if attention is not None and weights is not None:
                attention[index, :t] = weights
        total = masked_sum(prefix[:, 1:], last_token(rollout.response_mask), dim=1)
        wanted = prefix if "prefix_scores" in needs else None
        return RewardOutput(total, {"reward_model": total}, prefix_scores=wanted, attention=attention)

    def _forward(self, part: Rollout, with_attention: bool) -> tuple[Tensor, Tensor | None]:
        """Scores (b, t + 1) of every prefix, and what each response's last token attends to (b, t)."""
        if not with_attention:
            return self._head.prefix_scores(part), None
        scores, weights = self._head.with_attention(part.input_ids, part.attention_mask)
        t = part.response_ids.shape[1]
        last = part.prompt_ids.shape[1] + part.lengths - 1  # (b,) where each response's last token stands
        rows = weights[torch.arange(len(part), device=last.device), last]
        return scores[:, -(t + 1) :], rows[:, -t:] * part.response_mask
