"""Ensemble of reward models: the mean, the lowest, or the mean less a penalty on disagreement.

Coste et al., arXiv 2310.02743, section 3: mean optimisation; worst-case optimisation, min_i R_i; uncertainty-weighted
optimisation, mean_i R_i - penalty * (1/k) sum_i (R_i - mean)^2. `mean_minus_std` takes the root of that variance, so
that the penalty has the score's unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.config import Combine
from align.functional.masked import masked_sum
from align.rewards.base import Source
from align.types import RewardInput, RewardOutput


class EnsembleScorer:
    """An ensemble of sources on one scale: members are normalised before they are combined.

    Prefix scores are combined prefix by prefix, as the scores of whole responses are. Attention is the mean of the
    members' own, each normalised to 1 over the response first, whichever member decides a minimum.
    """

    def __init__(self, members: Sequence[Source], combine: Combine, penalty: float) -> None:
        self._members = members
        self._combine = combine
        self._penalty = penalty

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        outputs = [member.score(batch, needs) for member in self._members]
        scores = torch.stack([out.total for out in outputs])
        parts = {f"member_{i}": out.total for i, out in enumerate(outputs)}
        prefixes = [out.prefix_scores for out in outputs if out.prefix_scores is not None]
        mask = batch.rollout.response_mask
        looks = [_share(out.attention, mask) for out in outputs if out.attention is not None]
        return RewardOutput(
            total=combined(scores, self._combine, self._penalty),
            parts=parts | {"member_std": scores.std(0, unbiased=False)},
            prefix_scores=combined(torch.stack(prefixes), self._combine, self._penalty) if prefixes else None,
            attention=torch.stack(looks).mean(0) if looks else None,
            raw_parts={f"member_{i}": out.raw_total for i, out in enumerate(outputs) if out.raw_total is not None},
        )


def combined(scores: Tensor, how: Combine, penalty: float) -> Tensor:
    """Combine the scores of k members: (k, ...) -> (...)."""
    match how:
        case Combine.mean:
            return scores.mean(0)
        case Combine.minimum:
            return scores.amin(0)
        case Combine.mean_minus_variance:
            return scores.mean(0) - penalty * scores.var(0, unbiased=False)
        case Combine.mean_minus_std:
            return scores.mean(0) - penalty * scores.std(0, unbiased=False)


def _share(attention: Tensor, mask: Tensor) -> Tensor:
    return attention / masked_sum(attention, mask, dim=1).unsqueeze(1).clamp(min=1e-12)
