"""Weighted sum of sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from align.functional.credit import last_token, prefix_sums
from align.rewards.base import Source, frozen, load_state, state
from align.types import RewardInput, RewardOutput


class CompositeScorer:
    """A weighted sum of sources, with every part logged.

    Each part is a `part` of the output, weighted, and a `raw_part` before its own normalisation, clip and weight. The
    parts of a part are logged as `PART.NAME`. Signals per token add up as the scores do: a part without such signals is
    paid at the last token, and its prefix scores are 0 before.
    """

    def __init__(self, parts: Mapping[str, Source], weights: Mapping[str, float]) -> None:
        self._parts = dict(parts)
        self._weights = {name: weights.get(name, 1.0) for name in parts}

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        outputs = {name: part.score(batch, needs) for name, part in self._parts.items()}
        mask = batch.rollout.response_mask
        parts = {name: self._weights[name] * out.total for name, out in outputs.items()}
        raw: dict[str, Tensor] = {}
        for name, out in outputs.items():
            raw[name] = out.total if out.raw_total is None else out.raw_total
            if len(out.parts) > 1:
                raw |= {f"{name}.{inner}": scores for inner, scores in out.parts.items()}
        return RewardOutput(
            total=torch.stack(list(parts.values())).sum(0),
            parts=parts,
            token_scores=self._sum({n: _tokens(out, mask) for n, out in outputs.items()}, outputs, "token_scores"),
            prefix_scores=self._sum({n: _prefixes(out, mask) for n, out in outputs.items()}, outputs, "prefix_scores"),
            raw_parts=raw,
        )

    def _sum(self, signals: Mapping[str, Tensor], outputs: Mapping[str, RewardOutput], field: str) -> Tensor | None:
        """Compute the weighted sum where at least one part has the signal itself; else None."""
        if all(getattr(out, field) is None for out in outputs.values()):
            return None
        return torch.stack([self._weights[name] * signal for name, signal in signals.items()]).sum(0)

    def frozen(self) -> Source:
        return CompositeScorer({name: frozen(part) for name, part in self._parts.items()}, self._weights)

    def state(self) -> dict[str, Any]:
        found = {name: state(part) for name, part in self._parts.items()}
        return {name: inner for name, inner in found.items() if inner}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        for name, part in self._parts.items():
            load_state(part, saved.get(name, {}))


def _tokens(out: RewardOutput, mask: Tensor) -> Tensor:
    """Return the token scores (B, T) of a part."""
    return out.total.unsqueeze(1) * last_token(mask) if out.token_scores is None else out.token_scores


def _prefixes(out: RewardOutput, mask: Tensor) -> Tensor:
    """Return the prefix scores (B, T + 1) of a part."""
    return prefix_sums(_tokens(out, mask)) if out.prefix_scores is None else out.prefix_scores
