"""Numbers and tables formatted for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def number(value: float | None, *, signed: bool = False) -> str:
    """Format a number with at most four significant digits; a dash for None or NaN.

    >>> number(0.5), number(1234.5), number(0.25, signed=True), number(None)
    ('0.500', '1234', '+0.250', '-')
    """
    if value is None or value != value:
        return "-"
    size = abs(value)
    sign = "+" if signed else ""
    if size >= 1e7 or 0 < size < 5e-4:
        return f"{value:{sign}.1e}"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:{sign}.{digits}f}"


def clock(seconds: float) -> str:
    """Format seconds: `clock(75)` is `1:15`, `clock(3700)` is `1:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Format the lines of a Markdown table with its first column to the left, all others to the right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return [f"| {' | '.join(row)} |" for row in rows]
