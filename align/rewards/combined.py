"""Sources made of several: a weighted sum, and an ensemble of reward models."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from align.config import Combine
from align.functional.credit import last_token, prefix_sums
from align.functional.masked import masked_sum
from align.rewards.base import Source
from align.types import RewardInput, RewardOutput


class CompositeScorer(Source):
    """A weighted sum of sources, with every part logged.

    Each part is a `part` of the output, weighted, and a `raw_part` before its own normalisation, clip and weight. The
    parts of a part are logged as `PART.NAME`. Signals per token add up as the scores do: a part without such signals is
    paid at the last token, and its prefix scores are 0 before. A part that does not apply to a response is left out of
    its sum, as TRL's trainers do; where none applies, the sum does not either.
    """

    def __init__(self, parts: Mapping[str, Source], weights: Mapping[str, float]) -> None:
        self._parts = dict(parts)
        self._weights = {name: weights.get(name, 1.0) for name in parts}

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        outputs = {name: part.score(batch, needs) for name, part in self._parts.items()}
        mask = batch.rollout.response_mask
        raw: dict[str, Tensor] = {}
        for name, out in outputs.items():
            raw[name] = out.total if out.raw_total is None else out.raw_total
            if len(out.parts) > 1:
                raw |= {f"{name}.{inner}": scores for inner, scores in out.parts.items()}
        tokens = prefixes = None  # unless at least one part has the signal itself
        if any(out.token_scores is not None for out in outputs.values()):
            tokens = self._sum({name: _tokens(out, mask) for name, out in outputs.items()})
        if any(out.prefix_scores is not None for out in outputs.values()):
            prefixes = self._sum({name: _prefixes(out, mask) for name, out in outputs.items()})
        parts = {name: self._weights[name] * out.total for name, out in outputs.items()}
        scored = torch.stack([out.scored for out in outputs.values()])
        total = torch.stack(list(parts.values())).where(scored, 0.0).sum(0).where(scored.any(0), torch.nan)
        every = all(out.applies is None for out in outputs.values())
        return RewardOutput(
            total,
            parts,
            token_scores=tokens,
            prefix_scores=prefixes,
            raw_parts=raw,
            applies=None if every else scored.any(0),
            extra={column: values for out in outputs.values() for column, values in out.extra.items()},
            logged=_joined([out.logged for out in outputs.values()]),
        )

    def _sum(self, signals: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._weights[name] * signal for name, signal in signals.items()]).sum(0)

    def frozen(self) -> Source:
        return CompositeScorer({name: part.frozen() for name, part in self._parts.items()}, self._weights)

    def state(self) -> dict[str, Any]:
        found = {name: part.state() for name, part in self._parts.items()}
        return {name: inner for name, inner in found.items() if inner}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state(saved.get(name, {}))


def _joined(logged: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    return {name: [x for own in logged for x in own.get(name, ())] for name in {n: 0 for own in logged for n in own}}


def _tokens(out: RewardOutput, mask: Tensor) -> Tensor:
    """Return the token scores (B, T) of a part; 0 where it does not apply."""
    total = out.total.where(out.scored, 0.0)
    return total.unsqueeze(1) * last_token(mask) if out.token_scores is None else out.token_scores


def _prefixes(out: RewardOutput, mask: Tensor) -> Tensor:
    """Return the prefix scores (B, T + 1) of a part."""
    return prefix_sums(_tokens(out, mask)) if out.prefix_scores is None else out.prefix_scores


class EnsembleScorer(Source):
    """An ensemble of sources on one scale: members are normalised before they are combined.

    Prefix scores are combined prefix by prefix, as the scores of whole responses are. Attention is the mean of the
    members' own, each normalised to 1 over the response first, whichever member decides a minimum.
    """

    def __init__(self, members: Sequence[Source], combine: Combine, penalty: float) -> None:
        self._members, self._combine, self._penalty = members, combine, penalty

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
    """Combine the scores of k members: (k, ...) -> (...). Coste et al., arXiv 2310.02743, section 3.

    Mean optimisation; worst-case optimisation, min_i R_i; uncertainty-weighted optimisation, mean_i R_i - penalty *
    (1/k) sum_i (R_i - mean)^2. `mean_minus_std` takes the root of that variance: the penalty has the score's unit.
    """
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
