"""From the records of an arm's runs to a curve: seeds and neighbouring steps drawn as one point, nothing lost silently.

A point stands for a stretch of steps of all seeds: their mean, the lowest and the highest value among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.report.load import Run

Value = float | None
Record = Mapping[str, Any]

AXES = {"step": "updates", "tokens": "policy tokens", "seconds": "seconds"}
TOKENS = "tokens/policy"


@dataclass(frozen=True)
class Curve:
    """y against whichever axis is chosen; None where there is no finite value."""

    label: str
    x: Mapping[str, Sequence[Value]]  # by axis; a run may have no tokens
    y: Sequence[Value]
    low: Sequence[Value] | None = None  # of the band around y; None where it would be no wider than the line
    high: Sequence[Value] | None = None
    colour: int = 0


class Grid:
    """The points of an arm's training curves: which steps each stands for, and where it lies on every axis."""

    def __init__(self, runs: Sequence[Run], points: int) -> None:
        steps = sorted({record["step"] for run in runs for record in run.steps})
        self.steps, self.points = len(steps), min(len(steps), points)
        place = {step: i * self.points // len(steps) for i, step in enumerate(steps)}
        self._cells = [[(place[record["step"]], record) for record in run.steps] for run in runs]
        last = steps if self.points == len(steps) else [max(s for s in steps if place[s] == i) for i in range(points)]
        self.x: dict[str, list[Value]] = {"step": [float(step) for step in last]}
        for axis, name in (("tokens", TOKENS), ("seconds", "seconds")):
            self.x[axis] = self._ends(name)

    def _ends(self, name: str) -> list[Value]:
        """The mean over runs of what each had reached at a point's end; never falling, though runs end apart."""
        reached: list[list[float]] = [[] for _ in range(self.points)]
        for cells in self._cells:
            ends = {i: finite(record.get(name)) for i, record in cells}
            for i, value in ends.items():
                if value is not None:
                    reached[i].append(value)
        means = [sum(values) / len(values) if values else None for values in reached]
        highest = -math.inf
        for i, mean in enumerate(means):
            if mean is not None:
                means[i] = highest = max(highest, mean)
        return means

    def curve(self, name: str, label: str, *, floor: float | None = None, colour: int = 0) -> Curve | None:
        """The metric `name`; None where no record has a finite value of it. Smaller values are drawn at `floor`."""
        total, count = [0.0] * self.points, [0] * self.points
        low, high = [math.inf] * self.points, [-math.inf] * self.points
        for cells in self._cells:
            for i, record in cells:
                value = finite(record.get(name))
                if value is None:
                    continue
                value = value if floor is None else max(value, floor)
                total[i] += value
                count[i] += 1
                low[i], high[i] = min(low[i], value), max(high[i], value)
        if not any(count):
            return None
        y = [t / n if n else None for t, n in zip(total, count, strict=True)]
        if max(count) == 1:
            return Curve(label, self.x, y, colour=colour)
        return Curve(label, self.x, y, _finite(low), _finite(high), colour)


def _finite(values: Iterable[float]) -> list[Value]:
    return [value if math.isfinite(value) else None for value in values]


def finite(value: Any) -> Value:
    """A finite number, or None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def evaluation_curve(runs: Sequence[Run], name: str, label: str, colour: int = 0) -> Curve | None:
    """A figure of the held-out evaluations in their order: the n-th evaluations of all seeds are one point."""
    rows = [[(r, _axes(run, r)) for r in run.evaluations] for run in runs]
    y: list[Value] = []
    low: list[Value] = []
    high: list[Value] = []
    x: dict[str, list[Value]] = {axis: [] for axis in AXES}
    for i in range(max(map(len, rows), default=0)):
        here = [row[i] for row in rows if i < len(row)]
        values = [v for record, _ in here if (v := finite(record.get(name))) is not None]
        if not values:
            continue
        y.append(sum(values) / len(values))
        low.append(min(values))
        high.append(max(values))
        for axis in AXES:
            places = [p for _, at in here if (p := at[axis]) is not None]
            x[axis].append(sum(places) / len(places) if places else None)
    if not y:
        return None
    return Curve(label, x, y, low, high, colour) if len(rows) > 1 else Curve(label, x, y, colour=colour)


def _axes(run: Run, evaluation: Record) -> dict[str, Value]:
    """Where an evaluation lies. Its tokens and seconds are those of training: the step's own record has them."""
    step = evaluation["step"]
    if step == 0:
        return dict.fromkeys(AXES, 0.0)
    record: Record = next((r for r in reversed(run.steps) if r["step"] <= step), {})
    return {"step": float(step), "tokens": finite(record.get(TOKENS)), "seconds": finite(record.get("seconds"))}
