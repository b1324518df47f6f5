"""Tables of a report and of a sweep: figures by arm with intervals, before and after of one run; Markdown too."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align import metrics
from align.numbers import Interval, mean_interval, number
from align.report.jobs import Arm
from align.report.summary import COLUMNS, ArmFigures, Column, Record, arm_names, arms, common_overrides

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


def headline(evaluation: Mapping[str, Any]) -> list[Row]:
    """Return the figures of `metrics.HEADLINE`, before and after; figures in neither evaluation are left out."""
    start, end = evaluation.get("before") or {}, evaluation.get("after") or {}
    figures, confidence = metrics.flatten(end), (evaluation.get("settings") or {}).get("confidence", 0.95)
    rows = []
    for name, label, before, after, change in metrics.headline(start, end):
        interval = _interval(name, figures, confidence)
        definition = metrics.lookup(name).definition
        rows.append(Row(label, definition, number(before), number(after), interval, number(change, signed=True)))
    return rows


def _interval(name: str, figures: Mapping[str, float], confidence: float) -> str:
    """Format an interval, `0.422 to 0.672`: the evaluation's own, else from a standard error; empty without either."""
    low, high = (figures.get(name.removesuffix("/mean") + end) for end in ("/low", "/high"))
    error = figures.get(_ERRORS[name]) if name in _ERRORS else None
    if error is not None and name in figures:
        half = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * error
        low, high = figures[name] - half, figures[name] + half
    return f"{number(low)} to {number(high)}" if low is not None and high is not None else ""


@dataclass(frozen=True)
class Comparison:
    """The arms' figures: one line each, a cell for every column that some arm has."""

    heading: str
    columns: list[Column]
    start: list[str]  # the start model's figure of each column, or a dash
    rows: list[tuple[str, str, list[tuple[str, str]]]]  # name, how many finished, (mean, interval)


def comparison(records: Sequence[Record]) -> Comparison:
    """Format the figures of all arms."""
    found = arms(records)
    heading, names = arm_names(found)
    columns = shown(found)
    rows = [
        (name, count(arm), [(number_of(arm, column), half_of(arm, column)) for column in columns])
        for name, arm in zip(names, found, strict=True)
    ]
    return Comparison(heading, columns, [_start(records, column) for column in columns], rows)


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
    found = arms(records)
    columns = shown(found)
    finished = sum(arm.finished for arm in found)
    lines = [f"# Sweep of {len(records)} jobs, {finished} finished", ""]
    shared = common_overrides(records)
    if shared:
        lines += [f"Common to all: {_code(shared)}", ""]
    if columns:
        heading, names = arm_names(found)
        head = [heading, "n", *(column.label for column in columns)]
        body = [
            [_code([name]), count(arm), *(cell(arm, column, " ") for column in columns)]
            for name, arm in zip(names, found, strict=True)
        ]
        lines += markdown_table(head, body)
        lines += ["", f"{NOTE[0].upper()}{NOTE[1:]}.", "", *(f"- {c.label}: {c.meaning}" for c in columns), ""]
    failed = [record for record in records if record["exit_code"]]
    if failed:
        lines += ["## Failed", "", *(f"- job {r['job']}, {_code(r['overrides'])}: {r['error']}" for r in failed), ""]
    return "\n".join(lines)


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Format a Markdown table with its first column to the left, all others to the right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return [f"| {' | '.join(row)} |" for row in rows]


def shown(found: Sequence[ArmFigures]) -> list[Column]:
    """Return the columns in which some arm has a figure."""
    return [column for column in COLUMNS if any(arm.figures[column.label] is not None for arm in found)]


def count(arm: ArmFigures) -> str:
    """Format the number of finished jobs, `2 of 3` where some did not finish."""
    return str(arm.finished) if arm.finished == arm.jobs else f"{arm.finished} of {arm.jobs}"


def cell(arm: ArmFigures, column: Column, between: str) -> str:
    """Format `0.512 ± 0.031`; with its own n where some finished job lacks the figure."""
    half = half_of(arm, column)
    return number_of(arm, column) + (f"{between}{half.replace(' (', f'{between}(')}" if half else "")


def number_of(arm: ArmFigures, column: Column) -> str:
    """Format the mean over finished jobs; a dash without one."""
    figure = arm.figures[column.label]
    return "-" if figure is None else number(figure.mean)


def half_of(arm: ArmFigures, column: Column) -> str:
    """Format `± 0.031`, with its own n where some finished job lacks the figure; empty for one job."""
    figure = arm.figures[column.label]
    if figure is None:
        return ""
    half = "" if figure.half is None else f"± {number(figure.half)}"
    lacking = f"(n={figure.n})" if figure.n != arm.finished else ""
    return " ".join(part for part in (half, lacking) if part)


def _code(words: Sequence[str]) -> str:
    """Format words as inline code that a Markdown table can hold."""
    return f"`{' '.join(words)}`".replace("|", "\\|")
