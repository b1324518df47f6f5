"""Print the table of a sweep on the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from align.report.summary import COLUMNS
from align.report.tables import NOTE, comparison


def print_table(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> bool:
    """Print the arms' means with intervals below; return False, and print nothing, where no job has a figure."""
    console = console or Console()
    compared = comparison(records, [column for column in COLUMNS if column.console])
    if not compared.columns:
        return False
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)  # eight figures and a short name fit in 80 columns
    table.add_column(compared.heading, overflow="fold")
    for label in ("n", *(column.label for column in compared.columns)):
        table.add_column(label.replace(" ", "\n"), justify="right", no_wrap=True)
    for name, n, cells in compared.rows:
        lines = ["\n".join((mean, half.replace(" (", "\n("))).rstrip() for mean, half in cells]
        table.add_row(Text(name), Text(n), *(Text(line, justify="right") for line in lines))
    if not console.is_terminal:  # nothing there to fold at
        unlimited = console.options.update(max_width=10_000)
        console.width = max(console.width, Measurement.get(console, unlimited, table).maximum)
    console.print()
    console.print(table)
    console.print(Text(NOTE), soft_wrap=True)
    return True
