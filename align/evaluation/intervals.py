"""Bootstrap intervals of means and ratios: the percentile one (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.config import EvaluationConfig
from align.streams import generator

RESAMPLES = 2000  # resamples of the bootstrap


def bootstrap(values: Sequence[float], *, confidence: float, seed: int) -> tuple[float, float]:
    """Compute the interval of the mean of `values` under resampling with replacement."""
    data = torch.tensor(values, dtype=torch.float64)
    return percentile_interval(data[_drawn(len(data), seed)].mean(1), confidence)


def _drawn(n: int, seed: int) -> Tensor:
    """Draw n of 0..n-1 with replacement, RESAMPLES times: (R, n) int64."""
    return torch.randint(n, (RESAMPLES, n), generator=generator(seed, "bootstrap"))


def percentile_interval(resampled: Tensor, confidence: float) -> tuple[float, float]:
    """Compute the central interval that holds the share `confidence` of the values (R,) float64."""
    tail = (1 - confidence) / 2
    low, high = resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


@dataclass(frozen=True)
class Bootstrap:
    """Figures with percentile intervals, as `{name: value, name_low: end, name_high: end}`."""

    confidence: float
    seed: int

    @classmethod
    def of(cls, evaluation: EvaluationConfig) -> Bootstrap:
        return cls(evaluation.confidence, evaluation.seed)

    def mean(self, name: str, values: Sequence[float]) -> dict[str, float | None]:
        """Compute the mean of `values`; a single one has no interval: None."""
        single = len(values) == 1
        ends = None if single else bootstrap(values, confidence=self.confidence, seed=self.seed)
        return _named(name, statistics.fmean(values), ends)

    def ratio(
        self,
        name: str,
        numerators: Tensor,
        weights: Tensor,
        clusters: Sequence[int],
        of: Callable[[float], float] = float,
    ) -> dict[str, float | None]:
        """Compute of(sum(numerators) / sum(weights)), (n,) each, under resampling of whole clusters.

        Rows of the same number in `clusters` (n,) depend on each other, as the pairs of one prompt do: an interval that
        resampled rows would be too narrow. `of` rises: it takes the ends of the ratio's interval to the figure's. A
        single cluster has no interval: None.
        """
        whole, drawn = self._resampled(torch.stack([numerators, weights]), clusters)
        value = of(float(whole[0] / whole[1]))
        if drawn is None:
            return _named(name, value, None)
        low, high = percentile_interval(drawn[0] / drawn[1], self.confidence)
        return _named(name, value, (of(low), of(high)))

    def change(
        self,
        name: str,
        sides: tuple[Tensor, Tensor],
        weights: Tensor,
        clusters: Sequence[int],
        of: Callable[[float], float] = float,
    ) -> dict[str, float | None]:
        """Compute how far of(sum(numerators) / sum(weights)) moved between two `sides` of numerators (n,) each.

        Both sides are resampled by the same clusters, so that what is common to them leaves the interval.
        """
        whole, drawn = self._resampled(torch.stack([*sides, weights]), clusters)
        value = of(float(whole[1] / whole[2])) - of(float(whole[0] / whole[2]))
        if drawn is None:
            return _named(name, value, None)
        old, new = ([of(mean) for mean in (side / drawn[2]).tolist()] for side in drawn[:2])
        moves = torch.tensor(new, dtype=torch.float64) - torch.tensor(old, dtype=torch.float64)
        return _named(name, value, percentile_interval(moves, self.confidence))

    def _resampled(self, rows: Tensor, clusters: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Sum rows (k, n) over everything (k,), and over every resample of clusters (k, R); None of a single one."""
        _, which = torch.unique(torch.tensor(clusters), return_inverse=True)
        groups = int(which.max()) + 1
        sums = torch.zeros(len(rows), groups, dtype=torch.float64)
        sums.index_add_(1, which, rows.double())
        drawn = sums[:, _drawn(groups, self.seed)].sum(2) if groups > 1 else None
        return sums.sum(1), drawn


def _named(name: str, value: float, ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def perplexity_of(nats: float) -> float:
    """Compute the perplexity of a mean negative log-probability; infinite where exp would overflow."""
    return math.inf if nats >= 700 else math.exp(nats)


def standard_error(values: Sequence[float]) -> float | None:
    """Compute the standard error of the mean; None of a single value, or where one is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return statistics.stdev(values) / math.sqrt(len(values))
