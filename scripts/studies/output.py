"""Tables and figures of the studies: Markdown, and SVG drawn by matplotlib (`pip install -e .[studies]`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import value_when
from runs import Point

from align.numbers import Interval, mean_interval

NOTE = "Mean ± half the 95% interval (Student's t over seeds); n = finished runs."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def figure(interval: Interval | None, digits: int = 3, sign: bool = False) -> str:
    """`0.512 ± 0.031`, or - where there is nothing."""
    if interval is None:
        return "-"
    mean = f"{interval.mean:{'+' if sign else ''}.{digits}f}"
    return mean if interval.half is None else f"{mean} ± {interval.half:.{digits}f}"


def over(values: Iterable[float | None]) -> Interval | None:
    """The mean of what is there, with its interval."""
    known = [value for value in values if value is not None]
    return mean_interval(known) if known else None


def reached(values: Sequence[float | None]) -> str:
    """The median of those that got there, in thousands, and how many did."""
    known = [value for value in values if value is not None]
    return (
        f"{statistics.median(known) / 1000:.1f} ({len(known)} of {len(values)})" if known else f"- (0 of {len(values)})"
    )


@dataclass(frozen=True)
class Line:
    label: str
    x: Sequence[float]
    y: Sequence[float]
    half: Sequence[float] | None = None  # of the band around it
    points: bool = False  # marks without a line


@dataclass(frozen=True)
class Panel:
    title: str
    x: str
    y: str
    lines: Sequence[Line]


def mean_curve(
    label: str, curves: Iterable[Sequence[Point]], x: Callable[[Point], float], y: Callable[[Point], float], n: int = 12
) -> Line | None:
    """The mean over seeds at `n` equal steps of x, as far as every seed gets; None without curves.

    x must rise along a curve, as tokens do.
    """
    every = [curve for curve in curves if curve]
    if not every:
        return None
    end = min(x(curve[-1]) for curve in every)
    grid = [end * i / (n - 1) for i in range(n)]
    means = []
    for at in grid:
        values = [value_when([x(p) for p in curve], [y(p) for p in curve], at) for curve in every]
        means.append(mean_interval([value for value in values if value is not None]))
    return Line(label, grid, [m.mean for m in means], [m.half or 0.0 for m in means])


def draw(path: Path, panels: Sequence[Panel], columns: int = 2) -> None:
    """One SVG of all panels; the same content gives the same file."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    settings = {"svg.hashsalt": "align", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with matplotlib.rc_context(settings | {"axes.spines.right": False}):
        rows = -(-len(panels) // columns)
        drawing, axes = pyplot.subplots(rows, columns, figsize=(5.2 * columns, 3.6 * rows), squeeze=False)
        for panel, ax in zip(panels, axes.flat, strict=False):
            for line in panel.lines:
                if line.points:
                    ax.plot(line.x, line.y, ".", label=line.label, alpha=0.6)
                    continue
                (drawn,) = ax.plot(line.x, line.y, label=line.label)
                if line.half is not None:
                    low = [v - h for v, h in zip(line.y, line.half, strict=True)]
                    high = [v + h for v, h in zip(line.y, line.half, strict=True)]
                    ax.fill_between(line.x, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
            ax.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
            if panel.lines:
                ax.legend(frameon=False, fontsize=7)
        for ax in list(axes.flat)[len(panels) :]:
            ax.set_axis_off()
        drawing.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(drawing)
