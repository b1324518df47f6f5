"""Print the table of a sweep on the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from align.report.summary import arm_names, arms
from align.report.tables import NOTE, cell, count, shown


def print_table(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> bool:
    """Print the arms' means with intervals below; return False, and print nothing, where no job has a figure."""
    console = console or Console()
    found = arms(records)
    columns = [column for column in shown(found) if column.console]
    if not columns:
        return False
    heading, names = arm_names(found)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)  # eight figures and a short name fit in 80 columns
    table.add_column(heading, overflow="fold")
    for label in ("n", *(column.label for column in columns)):
        table.add_column(label.replace(" ", "\n"), justify="right", no_wrap=True)
    for name, arm in zip(names, found, strict=True):
        cells = [Text(cell(arm, column, "\n"), justify="right") for column in columns]
        table.add_row(Text(name), Text(count(arm)), *cells)
    if not console.is_terminal:  # nothing there to fold at
        unlimited = console.options.update(max_width=10_000)
        console.width = max(console.width, Measurement.get(console, unlimited, table).maximum)
    console.print()
    console.print(table)
    console.print(Text(NOTE), soft_wrap=True)
    return True
