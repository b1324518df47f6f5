"""Normalisation and clipping of scores: (score - mean) / std, then cut at +-clip.

Signals per token are mapped too. Prefix scores are mapped like the score itself, so their differences still sum to it.
Rewards per token are divided by std, and the remainder, due to mean and clip, is paid at the last token, so that they
sum to the score. Attention has no unit and stays.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from align.functional.credit import last_token
from align.metrics import combine_moments, moments
from align.rewards.base import Source, Wrapper
from align.types import RewardInput, RewardOutput


@dataclass
class Running:
    """Mean and deviation of all scores so far, in double precision (Chan et al. 1979, eq. 2.1)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # summed squared deviations from the mean

    def add(self, scores: Tensor) -> None:
        """Add a batch (B,); non-finite scores are left out, since they would stay for good."""
        values = [float(x) for x in scores.double().tolist() if math.isfinite(x)]
        seen = (self.count, self.mean, self.squares)
        self.count, self.mean, self.squares = combine_moments(seen, moments(values))

    @property
    def std(self) -> float:
        """Return the population deviation; 1 while all scores are the same."""
        std = math.sqrt(self.squares / self.count) if self.count else 0.0
        return std if std > 1e-6 else 1.0


@dataclass(frozen=True)
class Fixed:
    """A mean and deviation that do not change."""

    mean: float
    std: float


class Scaled(Wrapper):
    """A source whose scores are normalised and clipped.

    With a running scale every call to `score` counts; a `frozen` view does not count, normalise or clip.
    """

    def __init__(self, source: Source, scale: Fixed | Running | None = None, clip: float | None = None) -> None:
        super().__init__(source)
        self.scale, self.clip = scale, clip

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        out = self.source.score(batch, needs)
        if isinstance(self.scale, Running):
            self.scale.add(out.total)
        scale = self.scale or Fixed(0.0, 1.0)
        return rescaled(out, scale.mean, scale.std, self.clip, batch)

    def frozen(self) -> Source:
        return self.source.frozen() if isinstance(self.scale, Running) else super().frozen()

    def state(self) -> dict[str, Any]:
        own = {"running": asdict(self.scale)} if isinstance(self.scale, Running) else {}
        inner = self.source.state()
        return own | ({"source": inner} if inner else {})

    def load_state(self, saved: Mapping[str, Any]) -> None:
        if isinstance(self.scale, Running):
            self.scale = Running(**saved["running"])
        self.source.load_state(saved.get("source", {}))


def rescaled(out: RewardOutput, mean: float, std: float, clip: float | None, batch: RewardInput) -> RewardOutput:
    """Map every score of `out` to (score - mean) / std, cut at +-clip; earlier scores stay in `raw_total`."""

    def mapped(scores: Tensor) -> Tensor:
        scores = (scores - mean) / std
        return scores if clip is None else scores.clamp(-clip, clip)

    total = mapped(out.total)
    lacking = (total - out.total / std).where(out.scored, 0.0)
    tokens, spans = out.token_scores, out.spans
    if tokens is not None:
        tokens = tokens / std + lacking.unsqueeze(1) * last_token(batch.rollout.response_mask)
    if spans is not None:
        rows = zip(spans, batch.responses, lacking.tolist(), strict=True)
        spans = [[*((a, b, s / std) for a, b, s in row), (len(text), len(text), rest)] for row, text, rest in rows]
    return replace(
        out,
        total=total,
        token_scores=tokens,
        prefix_scores=None if out.prefix_scores is None else mapped(out.prefix_scores),
        spans=spans,
        raw_total=out.total if out.raw_total is None else out.raw_total,
    )


class Folded(Wrapper):
    """A reward model into whose head (score - mean) / std is folded; `raw_total` has the scores before."""

    def __init__(self, source: Source, mean: float, std: float) -> None:
        super().__init__(source)
        self._mean, self._std = mean, std

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        out = self.source.score(batch, needs)
        return replace(out, raw_total=torch.add(self._mean, out.total, alpha=self._std))
