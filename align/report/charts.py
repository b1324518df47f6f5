"""Line charts as inline SVG: pure functions from numbers to markup. Colours and fonts are the style sheet's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 190  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 10, 24  # margins around the plot
FLAT = 0.02  # least height of the vertical axis, relative to the values
MAX_POINTS = 400  # drawn of a curve; longer ones are averaged in buckets

Value = float | None


@dataclass(frozen=True)
class Series:
    """One curve; None where there is no finite value."""

    label: str
    x: Sequence[float]
    y: Sequence[Value]
    spread: Sequence[Value] | None = None  # half the height of the band around it


@dataclass(frozen=True)
class Chart:
    """A drawing with what its tooltip needs."""

    title: str
    unit: str
    note: str
    svg: Markup
    labels: tuple[str, ...]
    points: dict[str, object]  # for the page's script: x, y per series, and the axes' ranges


def thin(series: Series, limit: int = MAX_POINTS) -> Series:
    """The series with at most `limit` points, each the mean of a bucket of neighbours."""
    n = len(series.x)
    if n <= limit:
        return series
    cuts = [round(i * n / limit) for i in range(limit + 1)]
    buckets = list(itertools.pairwise(cuts))

    def means(values: Sequence[Value]) -> list[Value]:
        return [_mean(values[a:b]) for a, b in buckets]

    spread = None if series.spread is None else means(series.spread)
    return Series(series.label, [series.x[b - 1] for _, b in buckets], means(series.y), spread)


def _mean(values: Iterable[Value]) -> Value:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them.

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


def line_chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    note: str = "",
    floor: float | None = None,
    dots: bool = False,
) -> Chart | None:
    """A chart of curves over steps, or None where none has a value.

    Args:
        floor: Smaller values are drawn here (for figures that fall far below in the first steps).
        dots: Mark the points, for curves with few of them.
    """
    drawn = [_clip(thin(s), floor) for s in series if any(v is not None for v in s.y)]
    if not drawn:
        return None
    y_ticks = ticks(*_range(drawn))
    x_low, x_high = min(min(s.x) for s in drawn), max(max(s.x) for s in drawn)
    box = (x_low, x_high if x_high > x_low else x_low + 1, y_ticks[0], y_ticks[-1])
    parts = [_grid(y_ticks, box), _x_axis(box)]
    for i, s in enumerate(drawn):
        parts += [_band(s, box, i), _line(s, box, i), *(_dots(s, box, i) if dots else ())]
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}<g class="hover"></g></svg>').format(
        WIDTH, HEIGHT, f"{title} over steps", Markup("").join(parts)
    )
    plot = {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
    points = {"x": [list(s.x) for s in drawn], "y": [_short(s.y) for s in drawn], "box": box, "plot": plot}
    return Chart(title, unit, note, svg, tuple(s.label for s in drawn), points)


def _short(values: Sequence[Value]) -> list[Value]:
    return [None if v is None else float(f"{v:.5g}") for v in values]


def _clip(s: Series, floor: float | None) -> Series:
    if floor is None:
        return s
    return Series(s.label, s.x, [None if v is None else max(v, floor) for v in s.y], s.spread)


def _range(drawn: Sequence[Series]) -> tuple[float, float]:
    values = [v for s in drawn for v in s.y if v is not None]
    for s in drawn:
        for v, d in zip(s.y, s.spread or (), strict=False):
            if v is not None and d is not None:
                values += [v - d, v + d]
    low, high = min(values), max(values)
    room = FLAT * max(abs(low), abs(high)) - (high - low)  # a curve that hardly moves looks flat, as it is
    return (low - room / 2, high + room / 2) if room > 0 else (low, high)


def _place(x: float, y: float, box: tuple[float, float, float, float]) -> tuple[float, float]:
    px = LEFT + (x - box[0]) / (box[1] - box[0]) * (WIDTH - LEFT - RIGHT)
    py = HEIGHT - BOTTOM - (y - box[2]) / (box[3] - box[2]) * (HEIGHT - TOP - BOTTOM)
    return round(px, 1), round(py, 1)


def _grid(y_ticks: Sequence[float], box: tuple[float, float, float, float]) -> Markup:
    out = []
    for value in y_ticks:
        _, y = _place(box[0], value, box)
        out.append(
            Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" class="y">{}</text>').format(
                "zero" if value == 0 else "grid", LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 3.5, _label(value)
            )
        )
    return Markup("").join(out)


def _x_axis(box: tuple[float, float, float, float]) -> Markup:
    inside = [v for v in ticks(box[0], box[1]) if box[0] <= v <= box[1] and v == int(v)]
    y = HEIGHT - BOTTOM + 15
    marks = [Markup('<text x="{}" y="{}" class="x">{}</text>').format(_place(v, 0, box)[0], y, int(v)) for v in inside]
    return Markup("").join(marks)


def _label(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:g}"


def _runs(s: Series) -> list[list[int]]:
    """Indices of the stretches without gaps."""
    out: list[list[int]] = [[]]
    for i, v in enumerate(s.y):
        if v is None:
            out.append([])
        else:
            out[-1].append(i)
    return [run for run in out if run]


def _line(s: Series, box: tuple[float, float, float, float], i: int) -> Markup:
    path = ""
    for run in _runs(s):
        points = [_place(s.x[k], s.y[k] or 0.0, box) for k in run]
        if len(points) == 1:  # a line of no length, which round caps show as a dot
            points *= 2
        path += "M" + "L".join(f"{x} {y}" for x, y in points)
    return Markup('<path class="line s{}" d="{}"/>').format(i + 1, path)


def _band(s: Series, box: tuple[float, float, float, float], i: int) -> Markup:
    if s.spread is None:
        return Markup("")
    path = ""
    for run in _runs(s):
        around = [(s.x[k], s.y[k] or 0.0, s.spread[k] or 0.0) for k in run]
        edge = [_place(x, y + d, box) for x, y, d in around] + [_place(x, y - d, box) for x, y, d in reversed(around)]
        path += "M" + "L".join(f"{x} {y}" for x, y in edge) + "Z"
    return Markup('<path class="band s{}" d="{}"/>').format(i + 1, path)


def _dots(s: Series, box: tuple[float, float, float, float], i: int) -> list[Markup]:
    at = [_place(x, y, box) for x, y in zip(s.x, s.y, strict=True) if y is not None]
    return [Markup('<circle class="dot s{}" cx="{}" cy="{}" r="4"/>').format(i + 1, x, y) for x, y in at]
