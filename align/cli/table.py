"""The table of a sweep: on the console, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from align.cli.summary import COLUMNS, Arm, Column, arm_names, arms, common_overrides
from align.intervals import Interval
from align.numbers import number

NOTE = "mean ± half the 95% interval (Student's t over seeds); n = finished jobs"


def print_table(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """The arms' figures, intervals below their means; nothing where no job has a figure."""
    console = console or Console()
    found = arms(records)
    columns = _shown(found)
    if not columns:
        return
    heading, names = arm_names(found)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)  # eight figures and a short name fit in 80 columns
    table.add_column(heading, overflow="fold")
    for label in ("n", *(column.label for column in columns)):
        table.add_column(label.replace(" ", "\n"), justify="right", no_wrap=True)
    for name, arm in zip(names, found, strict=True):
        cells = [Text(_cell(arm, column, "\n"), justify="right") for column in columns]
        table.add_row(Text(name), Text(_count(arm)), *cells)
    if not console.is_terminal:  # nothing there to fold at
        console.width = max(console.width, _natural_width(table, console))
    console.print()
    console.print(table)
    console.print(Text(NOTE), soft_wrap=True)


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """The content of summary.md: the arms' figures, what they mean, and the failed jobs."""
    found = arms(records)
    columns = _shown(found)
    finished = sum(arm.finished for arm in found)
    lines = [f"# Sweep of {len(records)} jobs, {finished} finished", ""]
    shared = common_overrides(records)
    if shared:
        lines += [f"Common to all: {_code(shared)}", ""]
    if columns:
        lines += _table(found, columns)
        lines += ["", f"{NOTE[0].upper()}{NOTE[1:]}.", "", *(f"- {c.label}: {c.meaning}" for c in columns), ""]
    failed = [record for record in records if record["exit_code"]]
    if failed:
        lines += ["## Failed", "", *(f"- job {r['job']}, {_code(r['overrides'])}: {r['error']}" for r in failed), ""]
    return "\n".join(lines)


def _table(found: Sequence[Arm], columns: Sequence[Column]) -> list[str]:
    heading, names = arm_names(found)
    head = [heading, "n", *(column.label for column in columns)]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, arm in zip(names, found, strict=True):
        rows.append([_code([name]), _count(arm), *(_cell(arm, column, " ") for column in columns)])
    return [f"| {' | '.join(row)} |" for row in rows]


def _shown(found: Sequence[Arm]) -> list[Column]:
    """The columns in which some arm has a figure."""
    return [column for column in COLUMNS if any(arm.figures[column.label] is not None for arm in found)]


def _count(arm: Arm) -> str:
    return str(arm.finished) if arm.finished == arm.jobs else f"{arm.finished} of {arm.jobs}"


def _cell(arm: Arm, column: Column, between: str) -> str:
    """`0.512 ± 0.031`; with its own n where some finished job lacks the figure."""
    figure = arm.figures[column.label]
    if figure is None:
        return "-"
    lacking = f"{between}(n={figure.n})" if figure.n != arm.finished else ""
    return f"{number(figure.mean)}{_half(figure, between)}{lacking}"


def _half(figure: Interval, between: str) -> str:
    return "" if figure.half is None else f"{between}± {number(figure.half)}"


def _code(words: Sequence[str]) -> str:
    """Words as inline code that a Markdown table can hold."""
    return f"`{' '.join(words)}`".replace("|", "\\|")


def _natural_width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum
