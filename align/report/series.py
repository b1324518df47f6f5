"""Curves from the records of an arm's runs.

A point stands for a stretch of steps of all seeds: their mean, and the lowest and highest value among them, so that no
spike is lost.
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
    low: Sequence[Value] | None = None  # lower edge of the band around y; None = no wider than the line
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
        ends = {"tokens": self._ends(TOKENS), "seconds": self._ends("seconds")}
        self.x: dict[str, list[Value]] = {"step": [float(step) for step in last], **ends}

    def _ends(self, name: str) -> list[Value]:
        """Return the mean over runs of the value reached at each point's end; never falling, though runs end apart."""
        reached: list[list[float]] = [[] for _ in range(self.points)]
        for cells in self._cells:
            for i, value in {i: finite(record.get(name)) for i, record in cells}.items():
                if value is not None:
                    reached[i].append(value)
        means = [_mean(values) for values in reached]
        highest = -math.inf
        for i, mean in enumerate(means):
            if mean is not None:
                means[i] = highest = max(highest, mean)
        return means

    def curve(self, name: str, label: str, *, floor: float | None = None, colour: int = 0) -> Curve | None:
        """Build the curve of the metric `name`; None without a finite value. Values below `floor` are raised to it."""
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
    """Return `value` as a float where it is a finite number, else None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def evaluation_curve(runs: Sequence[Run], name: str, label: str, colour: int = 0) -> Curve | None:
    """Build the curve of a held-out figure: a point is the n-th evaluation of all seeds."""
    rows = [[{**_axes(run, record), "y": finite(record.get(name))} for record in run.evaluations] for run in runs]
    points = []
    for i in range(max(map(len, rows), default=0)):
        here = [row[i] for row in rows if i < len(row)]
        known = {key: [v for one in here if (v := one[key]) is not None] for key in (*AXES, "y")}
        if known["y"]:
            points.append(known)
    if not points:
        return None
    mean = {key: [_mean(point[key]) for point in points] for key in (*AXES, "y")}
    y = mean.pop("y")
    if len(rows) == 1:
        return Curve(label, mean, y, colour=colour)
    return Curve(label, mean, y, [min(p["y"]) for p in points], [max(p["y"]) for p in points], colour)


def _mean(values: Sequence[float]) -> Value:
    return sum(values) / len(values) if values else None


def _axes(run: Run, evaluation: Record) -> dict[str, Value]:
    """Return where an evaluation lies on each axis; tokens and seconds are those of the training step's own record."""
    step = evaluation["step"]
    if step == 0:
        return dict.fromkeys(AXES, 0.0)
    record: Record = next((r for r in reversed(run.steps) if r["step"] <= step), {})
    return {"step": float(step), "tokens": finite(record.get(TOKENS)), "seconds": finite(record.get("seconds"))}
