"""The report's figures as SVG files and its tables as Markdown, for papers and slides."""

import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup, escape

from align.files import write_atomic
from align.numbers import markdown_table
from align.report import tables
from align.report.charts import Chart, Curve, Value
from align.report.drawings import draw
from align.report.jobs import Arm, Job, arms_of, load_jobs
from align.report.probes import probes

TABLES = "tables.md"
WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 44, 44
COLOURS = ("#2a66c8", "#c4611a", "#1d8a5b", "#a1389b", "#8a6d00", "#0a8fa8", "#c2334d", "#5b5bd6")  # as report.css
_FONT = "font-family='system-ui, sans-serif' font-size"


def export(folders: Sequence[Path], target: Path) -> Path:
    """Write every figure, one file for each horizontal axis that it has, and tables.md; returns `target`.

    Raises:
        InputError: A folder is neither a run's nor a sweep's.
    """
    jobs = load_jobs(folders)
    _, arms = arms_of(jobs)
    for one in draw(arms).every:
        for axis in one.axes:
            suffix = f"_by_{axis}" if len(one.axes) > 1 else ""
            write_atomic(target / f"{_slug(one.title)}{suffix}.svg", svg(one, axis))
    write_atomic(target / TABLES, markdown(jobs, arms))
    return target


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def markdown(jobs: Sequence[Job], arms: Sequence[Arm]) -> str:
    """Format the headline figures, every figure of the evaluation, and the probes."""
    parts = [tables.markdown([job.record for job in jobs])]
    if len(jobs) == 1 and jobs[0].run is not None:
        rows = [[r.label, r.before, f"{r.after} ({r.interval})" if r.interval else r.after, r.change]
                for r in tables.headline(jobs[0].run.evaluation)]  # fmt: skip
        parts += ["## Before and after", "", *markdown_table(["figure", "before", "after", "change"], rows), ""]
    every = [[f"`{label}`", *cells] for label, _, cells in tables.all_figures(arms)]
    if every:
        table = markdown_table(["figure", *(arm.name for arm in arms)], every)
        parts += ["## Every figure of the evaluation at the end", "", *table, ""]
    heat = probes(arms)
    if heat is not None:
        head = ["perturbation", *(f"{arm} {figure}".strip("- ") for arm, figure in heat.columns)]
        rows = [[name, *(f"{cell.text} {cell.error}".strip() for cell in cells)] for name, cells in heat.rows]
        parts += ["## Reward-hacking probes", "", *markdown_table(head, rows), ""]
    return "\n".join(parts)


def svg(chart: Chart, axis: str | None = None) -> str:
    """Draw the chart over `axis`, by default its first."""
    name = axis or next(iter(chart.axes))
    frame = _Frame(chart, name)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>",
        f"<text x='12' y='20' {_FONT}='14' fill='#1c1c1a'>{escape(chart.title)}"
        f"<tspan fill='#62625d' font-size='12'> {escape(chart.unit)}</tspan></text>",
        *frame.grid(chart, name),
        *(frame.draw(curve, chart.kind) for curve in chart.curves),
        *_legend(chart.curves),
        "</svg>\n",
    ]
    return "\n".join(parts)


def colour(index: int) -> str:
    """Return the colour of an arm or curve by its number; grey for the start model (-1)."""
    return COLOURS[index % len(COLOURS)] if index >= 0 else "#85837c"


def _legend(curves: Sequence[Curve]) -> list[str]:
    parts, x = [], 12.0
    for curve in curves:
        if len(curves) > 1:
            parts.append(f"<rect x='{x:.0f}' y='29' width='12' height='3' fill='{colour(curve.colour)}'/>")
            parts.append(f"<text x='{x + 16:.0f}' y='34' {_FONT}='11' fill='#62625d'>{escape(curve.label)}</text>")
            x += 30 + 6.2 * len(curve.label)
    return parts


class _Frame:
    """Mapping from the data's units to the drawing's."""

    def __init__(self, chart: Chart, axis: str) -> None:
        self.axis, self.x, self.y = axis, chart.axes[axis], chart.y

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x.low) / (self.x.high - self.x.low)
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def grid(self, chart: Chart, name: str) -> list[str]:
        parts = []
        for value, text in chart.y_ticks:
            _, y = self.place(self.x.low, value)
            parts.append(
                f"<path d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}' stroke='{'#b9b7b0' if value == 0 else '#eceae4'}'/>"
            )
            parts.append(_text(LEFT - 7, y + 4, text, "end"))
        for value, text in self.x.ticks:
            parts.append(_text(self.place(value, 0)[0], HEIGHT - BOTTOM + 17, text, "middle"))
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, chart.axes[name].name, "middle"))
        return parts

    def draw(self, curve: Curve, kind: str) -> str:
        fill = colour(curve.colour)
        points = self._points(curve, curve.y)
        if kind != "line":
            whiskers = zip(self._points(curve, curve.low), self._points(curve, curve.high), strict=True)
            lines = "".join(f"M{_at(a)}L{_at(b)}" for a, b in whiskers if a and b)
            dots = "".join(f"<circle cx='{p[0]:.1f}' cy='{p[1]:.1f}' r='4' fill='{fill}'/>" for p in points if p)
            trail = f"<path d='{_path(points)}' fill='none' stroke='{fill}'/>" if kind == "trail" else ""
            return f"<path d='{lines}' stroke='{fill}' stroke-width='1.5'/>{trail}{dots}"
        band = ""
        if curve.low is not None:
            around = list(zip(self._points(curve, curve.high), self._points(curve, curve.low), strict=True))
            d = "".join(_ring(run) for run in _stretches(around))
            band = f"<path d='{d}' fill='{fill}' opacity='0.16'/>"
        dash = " stroke-dasharray='7 4'" if curve.colour >= len(COLOURS) else ""  # the colours repeat
        line = f"<path d='{_path(points)}' fill='none' stroke='{fill}' stroke-width='2' stroke-linecap='round'{dash}/>"
        return band + line

    def _points(self, curve: Curve, values: Sequence[Value] | None) -> list[tuple[float, float] | None]:
        xs = curve.x.get(self.axis, ())
        if values is None:
            return [None] * len(xs)
        return [None if x is None or v is None else self.place(x, v) for x, v in zip(xs, values, strict=True)]


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    runs = _stretches([(p, p) for p in points])
    return "".join("M" + "L".join(_at(p) for p, _ in (run * 2 if len(run) == 1 else run)) for run in runs)


Pair = tuple[tuple[float, float], tuple[float, float]]


def _stretches(pairs: Sequence[tuple[tuple[float, float] | None, tuple[float, float] | None]]) -> list[list[Pair]]:
    """Split at gaps."""
    out: list[list[Pair]] = [[]]
    for a, b in pairs:
        if a is None or b is None:
            out.append([])
        else:
            out[-1].append((a, b))
    return [run for run in out if run]


def _ring(run: Sequence[Pair]) -> str:
    return "M" + "L".join(_at(p) for p in [*(a for a, _ in run), *(b for _, b in reversed(run))]) + "Z"


def _at(point: tuple[float, float]) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup("<text x='{:.1f}' y='{:.1f}' {}='11' fill='#62625d' text-anchor='{}'>{}</text>").format(
        x, y, Markup(_FONT), anchor, text
    )
