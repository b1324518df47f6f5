"""What the studies compute from the figures of their runs: pure functions, standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from align.numbers import Interval, mean_interval


def first_reach(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """Where the curve through (x, y) first reaches `level` from below, between points by straight lines; None: never.

    A curve that starts at the level reaches it at its first x.
    """
    for i, value in enumerate(y):
        if value >= level:
            if i == 0:
                return x[0]
            return x[i - 1] + (x[i] - x[i - 1]) * (level - y[i - 1]) / (value - y[i - 1])
    return None


def value_when(x: Sequence[float], y: Sequence[float], at: float) -> float | None:
    """y where x first reaches `at`, by straight lines: gold at a matched KL, though KL need not rise steadily."""
    for i, value in enumerate(x):
        if value >= at:
            if i == 0:
                return y[0]
            return y[i - 1] + (y[i] - y[i - 1]) * (at - x[i - 1]) / (value - x[i - 1])
    return None


def level_of(start: float, end: float, share: float = 0.95) -> float:
    """The level at `share` of the rise from start to end."""
    return start + share * (end - start)


@dataclass(frozen=True)
class Fit:
    """gain = d (alpha - beta log d), d = sqrt(KL): Gao et al. (arXiv 2210.10760), equation for RL."""

    alpha: float
    beta: float
    r2: float  # share of the gain's sum of squares about its mean

    def __call__(self, d: float) -> float:
        return d * (self.alpha - self.beta * math.log(d)) if d > 0 else 0.0

    @property
    def peak(self) -> float | None:
        """d at the top; None where the curve has no top (beta <= 0)."""
        return math.exp(self.alpha / self.beta - 1) if self.beta > 0 else None


def fit_overoptimisation(d: Sequence[float], gain: Sequence[float]) -> Fit:
    """Least squares of gain on d and -d log d; there is no intercept, as nothing is gained at d = 0.

    Args:
        d: sqrt(KL) of each point, in nats ** 0.5; points at 0 or below say nothing and are left out.
        gain: Reward less the start model's.

    Raises:
        ValueError: Fewer than two different d above 0.
    """
    points = [(x, y) for x, y in zip(d, gain, strict=True) if x > 0]
    if len({x for x, _ in points}) < 2:
        raise ValueError("a fit of two coefficients needs two different d above 0")
    a = [x for x, _ in points]
    b = [-x * math.log(x) for x, _ in points]
    y = [value for _, value in points]
    aa, bb, ab = _dot(a, a), _dot(b, b), _dot(a, b)
    ay, by = _dot(a, y), _dot(b, y)
    determinant = aa * bb - ab * ab
    alpha, beta = (bb * ay - ab * by) / determinant, (aa * by - ab * ay) / determinant
    mean = math.fsum(y) / len(y)
    left = math.fsum((v - alpha * p - beta * q) ** 2 for v, p, q in zip(y, a, b, strict=True))
    spread = math.fsum((v - mean) ** 2 for v in y)
    return Fit(alpha, beta, 1 - left / spread if spread > 0 else math.nan)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def paired(values: dict[int, float], others: dict[int, float]) -> Interval | None:
    """Mean difference values - others over the seeds that both have, with its 95% interval; None without any."""
    shared = sorted(values.keys() & others.keys())
    return mean_interval([values[seed] - others[seed] for seed in shared]) if shared else None


def verdict(difference: Interval | None, claimed: int) -> str:
    """Whether a difference bears out a claim of sign `claimed` (1 or -1): the interval must exclude 0."""
    if difference is None or difference.half is None:
        return "not measured (fewer than two seeds)"
    low, high = difference.mean - difference.half, difference.mean + difference.half
    if low <= 0 <= high:
        return "undecided (the interval holds 0)"
    return "borne out" if (difference.mean > 0) == (claimed > 0) else "contradicted"
