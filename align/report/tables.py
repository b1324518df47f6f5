"""Tables of a report and of a sweep: figures by arm with intervals, before and after of one run; Markdown too."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align import metrics
from align.numbers import Interval, markdown_table, mean_interval, normal_quantile, number
from align.report.jobs import Arm
from align.report.summary import COLUMNS, ArmFigures, Column, Record, arm_names, arms, common_overrides
from align.report.verdicts import by_arm, line, verdict_cells

_ERRORS = {f"eval/reward/{judge}_mean": f"eval/reward/{judge}_se" for judge in ("proxy", "gold", "evaluation")}
_ERRORS |= {"eval/kl_per_response": "eval/kl/per_response_k1_se"}
NOTE = "mean ± half the 95% interval (Student's t over seeds); n = finished jobs"


@dataclass(frozen=True)
class Row:
    """A line of one run's headline table, formatted."""

    label: str
    definition: str
    before: str
    after: str
    interval: str  # of `after`, or empty
    change: str
    moved: str  # interval of `change`, or empty


def headline(evaluation: Mapping[str, Any]) -> list[Row]:
    """Return the figures of `metrics.HEADLINE`, before and after; figures in neither evaluation are left out."""
    start, end = evaluation.get("before") or {}, evaluation.get("after") or {}
    settings = evaluation.get("settings") or {}
    figures, confidence = metrics.flatten(end), settings.get("confidence", 0.95)
    # Older files hold differences of ends there, which are no ends of the difference.
    moved = metrics.flatten(evaluation.get("delta") or {}) if "delta" in settings else {}
    rows = []
    for name, label, before, after, change in metrics.headline(start, end):
        texts = number(before), number(after), _interval(name, figures, confidence), number(change, signed=True)
        ends = _between(metrics.interval(name, moved))
        rows.append(Row(label, metrics.lookup(name).definition, *texts, ends))
    return rows


def _interval(name: str, figures: Mapping[str, float], confidence: float) -> str:
    """Format an interval, `0.422 to 0.672`: the evaluation's own, else from a standard error; empty without either."""
    ends = metrics.interval(name, figures)
    error = figures.get(_ERRORS[name]) if name in _ERRORS else None
    if ends is None and error is not None and name in figures:
        half = normal_quantile(confidence) * error
        ends = figures[name] - half, figures[name] + half
    return _between(ends)


def _between(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


@dataclass(frozen=True)
class Comparison:
    """The arms' figures: one line each, a cell for every column that some arm has."""

    heading: str
    columns: list[Column]
    start: list[str]  # the start model's figure of each column, or a dash
    rows: list[tuple[str, str, list[tuple[str, str]]]]  # name, how many finished, (mean, interval)
    verdicts: list[str]  # by row, how many jobs failed, were warned about or noted; empty where nothing went wrong

    @property
    def judged(self) -> bool:
        """Return whether anything went wrong in any job, which the tables then have a column for."""
        return any(self.verdicts)


def comparison(records: Sequence[Record], columns: Sequence[Column] = COLUMNS) -> Comparison:
    """Format the figures of all arms in those of `columns` in which some arm has one."""
    found = arms(records, columns)
    heading, names = arm_names(found)
    shown = [column for column in columns if any(arm.figures[column.label] is not None for arm in found)]
    rows = [
        (name, _count(arm), [_cell(arm, arm.figures[column.label]) for column in shown])
        for name, arm in zip(names, found, strict=True)
    ]
    start = [_start(records, column) for column in shown]
    return Comparison(heading, shown, start, rows, verdict_cells(records))


def _count(arm: ArmFigures) -> str:
    return str(arm.finished) if arm.finished == arm.jobs else f"{arm.finished} of {arm.jobs}"


def _cell(arm: ArmFigures, figure: Interval | None) -> tuple[str, str]:
    """Format the mean and `± 0.031`, with its own n where some finished job lacks the figure."""
    if figure is None:
        return "-", ""
    half = [] if figure.half is None else [f"± {number(figure.half)}"]
    return number(figure.mean), " ".join(half if figure.n == arm.finished else [*half, f"(n={figure.n})"])


def _start(records: Sequence[Record], column: Column) -> str:
    """Format the column's figure of the start model; a dash without one or where the runs' start models differ."""
    if column.label in ("forgetting", "tokens, k", "seconds"):
        return "-"
    found = [column.read({**record, "after": record.get("before")}) for record in records]
    values = [value for value in found if value is not None]
    if not values or max(values) - min(values) > 1e-3 * max(1.0, abs(statistics.fmean(values))):
        return "-"
    return number(statistics.fmean(values))


def all_figures(groups: Sequence[Arm]) -> list[tuple[str, str, list[str]]]:
    """Return every figure of the evaluation at the end: name, definition, and `mean ± half` of each arm."""
    flat = [[metrics.flatten(run.evaluation.get("after") or {}) for run in group.runs] for group in groups]
    names = dict.fromkeys(name for group in flat for one in group for name in one)
    rows = []
    for name in names:
        values = [[one[name] for one in group if name in one] for group in flat]
        cells = [_plain(mean_interval(v)) if v else "-" for v in values]
        row = metrics.find(name)
        rows.append((name.removeprefix("eval/"), row.definition if row else "", cells))
    return rows


def _plain(figure: Interval) -> str:
    return number(figure.mean) + ("" if figure.half is None else f" ± {number(figure.half)}")


def markdown(records: Sequence[Record]) -> str:
    """Format summary.md: the arms' figures, their meaning, and the failed jobs."""
    table, shared = comparison(records), common_overrides(records)
    finished = sum(record["exit_code"] == 0 for record in records)
    lines = [f"# Sweep of {len(records)} jobs, {finished} finished", ""]
    if shared:
        lines += [f"Common to all: {_code(shared)}", ""]
    if table.columns:
        judged = table.verdicts if table.judged else [None] * len(table.rows)
        head = [table.heading, "n", *(["verdict"] * table.judged), *(column.label for column in table.columns)]
        body = [
            [_code([name]), n, *([] if verdict is None else [verdict or "-"]), *(" ".join(c).rstrip() for c in cells)]
            for (name, n, cells), verdict in zip(table.rows, judged, strict=True)
        ]
        meanings = [f"- {column.label}: {column.meaning}" for column in table.columns]
        lines += [*markdown_table(head, body), "", f"{NOTE[0].upper()}{NOTE[1:]}.", "", *meanings, ""]
    verdicts = [f"- {line(*found)}" for found in by_arm(records)]
    if verdicts:
        lines += ["## Verdicts", "", *verdicts, ""]
    failed = [record for record in records if record["exit_code"]]
    if failed:
        lines += ["## Failed", "", *(f"- job {r['job']}, {_code(r['overrides'])}: {r['error']}" for r in failed), ""]
    return "\n".join(lines)


def _code(words: Sequence[str]) -> str:
    """Format words as inline code that a Markdown table can hold."""
    return f"`{' '.join(words)}`".replace("|", "\\|")
