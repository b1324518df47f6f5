"""The table that ends a run on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from align import metrics
from align.numbers import number


def before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Headline figures of two evaluation summaries; a figure that neither has is left out."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    old, new = metrics.flatten(before), metrics.flatten(after)
    for name, label in metrics.HEADLINE:
        a, b = old.get(name), new.get(name)
        if a is None and b is None:
            continue
        change = b - a if a is not None and b is not None else None
        shown = number(b)
        if name == "eval/win_rate/mean" and "eval/win_rate/low" in new:
            shown += f" [{number(new['eval/win_rate/low'])}, {number(new['eval/win_rate/high'])}]"
        table.add_row(label, number(a), shown, number(change, signed=True))
    return table
