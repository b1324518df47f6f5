"""Charts as data: axes, ticks and curves, for the page's script and for SVG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from align.report.series import AXES, Curve, Value

FLAT = 0.02  # least height of the vertical axis, relative to the values
UNITS = ((7200, 3600, "hours"), (600, 60, "minutes"), (0, 1, "seconds"))  # from how many seconds on, divisor, name

Tick = tuple[float, str]


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
    """Build a chart of the curves that are not None; None without any.

    Args:
        x_name: Name of the one axis of curves that are not against steps.
        marked: Whether that axis has numbers and a name.
        reach: Values that the vertical axis always includes.
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
