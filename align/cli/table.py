"""Print the table of a sweep on the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from align.errors import STYLES
from align.report.summary import COLUMNS
from align.report.tables import NOTE, comparison
from align.report.verdicts import by_arm, style_of
from align.report.verdicts import line as line_of


def print_table(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> bool:
    """Print the arms' means with intervals below; return False, and print nothing, where no job has a figure."""
    console = console or Console()
    compared = comparison(records, [column for column in COLUMNS if column.console])
    if not compared.columns:
        return False
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)  # eight figures and a short name fit in 80 columns
    table.add_column(compared.heading, overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    if compared.judged:
        table.add_column("verdict")
    for label in (column.label for column in compared.columns):
        table.add_column(label.replace(" ", "\n"), justify="right", no_wrap=True)
    for (name, n, cells), verdict in zip(compared.rows, compared.verdicts, strict=True):
        lines = ["\n".join((mean, half.replace(" (", "\n("))).rstrip() for mean, half in cells]
        judged = [Text(verdict or "-", style=style_of(verdict))] if compared.judged else []
        table.add_row(Text(name), Text(n), *judged, *(Text(line, justify="right") for line in lines))
    if not console.is_terminal:  # nothing there to fold at
        unlimited = console.options.update(max_width=10_000)
        console.width = max(console.width, Measurement.get(console, unlimited, table).maximum)
    console.print()
    console.print(table)
    console.print(Text(NOTE), soft_wrap=True)
    for name, found, jobs in by_arm(records):
        console.print(Text(line_of(name, found, jobs), style=STYLES[found.level]), soft_wrap=True)
    return True
