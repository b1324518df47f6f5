"""Charts as data: curves from the records of an arm's runs, axes and ticks, for the page's script and for SVG files.

A point of a curve stands for a stretch of steps of all seeds: their mean, and the lowest and highest value among them,
so that no spike is lost.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from align.report.load import Run

FLAT = 0.02  # least height of the vertical axis, relative to the values
UNITS = ((7200, 3600, "hours"), (600, 60, "minutes"), (0, 1, "seconds"))  # from how many seconds on, divisor, name

Tick = tuple[float, str]
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


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: its range in the data's unit, its marks, its name."""

    low: float
    high: float
    ticks: list[Tick]
    name: str


@dataclass(frozen=True)
class Chart:
    """One drawing. `axes` has one entry where there is nothing to choose."""

    title: str
    unit: str
    curves: list[Curve]
    axes: dict[str, Axis]
    y: tuple[float, float]
    y_ticks: list[Tick]
    kind: str = "line"  # dots: points with whiskers, not joined; trail: points joined
    note: str = ""
    keyed: bool = True  # whether the colours are arms, named once for the whole page
    missing: list[str] = field(default_factory=list)  # arms that do not measure this


def pack(charts: Sequence[Chart]) -> dict[str, Any]:
    """Convert the charts to data for the page's script; an x that curves share is written once."""
    shared: dict[int, int] = {}
    xs: list[dict[str, Any]] = []
    out = []
    for one in charts:
        curves = []
        for curve in one.curves:
            if id(curve.x) not in shared:
                shared[id(curve.x)] = len(xs)
                xs.append({axis: _short(values, 7) for axis, values in curve.x.items()})
            curves.append(_packed(curve, shared[id(curve.x)]))
        axes = {name: [a.low, a.high, a.ticks, a.name] for name, a in one.axes.items()}
        out.append({"title": one.title, "kind": one.kind, "axes": axes, "y": [*one.y, one.y_ticks], "curves": curves})
    return {"xs": xs, "charts": out}


def _packed(curve: Curve, x: int) -> dict[str, Any]:
    band = {} if curve.low is None else {"low": _short(curve.low), "high": _short(curve.high or ())}
    return {"label": curve.label, "colour": curve.colour, "x": x, "y": _short(curve.y), **band}


def _short(values: Sequence[Value], digits: int = 5) -> list[Value]:
    return [None if v is None else integer(float(f"{v:.{digits}g}")) for v in values]


def integer(value: float) -> float:
    """Return `value` as an int where it is a whole number, which JSON writes shorter."""
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def chart(
    title: str,
    unit: str,
    curves: Sequence[Curve | None],
    *,
    kind: str = "line",
    note: str = "",
    keyed: bool = True,
    missing: Sequence[str] = (),
    x_name: str | None = None,
    marked: bool = True,
    reach: Sequence[float] = (),
) -> Chart | None:
    """Build a chart of the curves that are not None; None without any. The vertical axis always includes `reach`.

    `x_name` names the one axis of curves that are not against steps; only a `marked` one shows numbers and its name.
    """
    drawn = [c for c in curves if c is not None]
    if not drawn:
        return None
    names = [x_name] if x_name is not None else list(AXES)
    axes = {name: axis for name in names if (axis := _axis(drawn, name, marked)) is not None}
    if not axes:
        return None
    low, high = _range(drawn, reach)
    marks = ticks(low, high)
    limits = (marks[0], marks[-1])
    labels = [(v, label(v)) for v in marks]
    return Chart(title, unit, drawn, axes, limits, labels, kind, note, keyed, list(missing))


def _axis(drawn: Sequence[Curve], name: str, marked: bool) -> Axis | None:
    values = [v for curve in drawn for v in curve.x.get(name, ()) if v is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    if name not in AXES:
        pad = (high - low) * 0.05 or 0.5
        if not marked:  # places, not numbers
            low, high = low - 0.5, high + 0.5
        else:
            low, high = low - pad if low < 0 else max(low - pad, 0.0), high + pad
    if high <= low:
        high = low + 1
    scale, shown = 1.0, AXES.get(name, name) if marked else ""
    if name == "seconds":
        scale, shown = next((divisor, unit) for limit, divisor, unit in UNITS if high >= limit)
    inside = [t for t in ticks(low / scale, high / scale) if marked and low <= t * scale <= high]
    whole = name == "step"
    return Axis(low, high, [(t * scale, label(t)) for t in inside if not whole or t == int(t)], shown)


def _range(drawn: Sequence[Curve], reach: Sequence[float]) -> tuple[float, float]:
    values = [v for c in drawn for side in (c.y, c.low or (), c.high or ()) for v in side if v is not None]
    values += reach
    low, high = min(values), max(values)
    room = FLAT * max(abs(low), abs(high)) - (high - low)  # a curve that hardly moves looks flat, as it is
    return (low - room / 2, high + room / 2) if room > 0 else (low, high)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Choose about `count` round numbers that cover [low, high].

    >>> ticks(0.0, 1.0), ticks(-0.03, 0.11)
    ([0.0, 0.5, 1.0], [-0.05, 0.0, 0.05, 0.1, 0.15])
    """
    if high <= low:
        pad = abs(low) / 2 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def label(value: float) -> str:
    """Format a tick's number: `20k`, `1.5M`, `2e-4`, else unchanged."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):g}{letter}"
    if value and size < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-")
    return f"{value:g}"


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
