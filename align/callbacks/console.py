"""Table of a run's results on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from align import metrics
from align.numbers import number


def before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Build a table of the headline figures of two evaluation summaries; figures that neither has are left out."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    figures = metrics.flatten(after)
    for name, label, old, new, change in metrics.headline(before, after):
        shown = number(new)
        if name == "eval/win_rate/mean" and "eval/win_rate/low" in figures:
            shown += f" [{number(figures['eval/win_rate/low'])}, {number(figures['eval/win_rate/high'])}]"
        table.add_row(label, number(old), shown, number(change, signed=True))
    return table
