"""Filters of data rows: `data.train_where`, `data.held_out_where`, `data.reward_where`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.data.sources import Row
from align.errors import InputError

SHOWN = 8  # most values that an error lists


def matching(rows: Sequence[Row], where: Mapping[str, Any], key: str, source: str) -> list[bool]:
    """Return for each row whether every column of `where` holds its value, or one of its values.

    Without conditions every row is kept.

    Args:
        key: The config key of `where`, named in errors with the column behind it.
        source: Origin of the rows, for errors.

    Raises:
        InputError: A column or a value that occurs in no row, or conditions that no row meets together.
    """
    if not where:
        return [True] * len(rows)
    if not rows:
        raise InputError(key, dict(where), f"{{}}: {source} leaves no rows there")
    wanted = {column: _listed(values) for column, values in where.items()}
    for column, values in wanted.items():
        _check(rows, column, values, f"{key}.{column}", source)
    kept = [all(row.get(column) in values for column, values in wanted.items()) for row in rows]
    if not any(kept):
        raise InputError(key, dict(where), f"conditions that some row of {source} meets together")
    return kept


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else [values]


def _check(rows: Sequence[Row], column: str, values: Sequence[Any], key: str, source: str) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if column not in columns:
        raise InputError(key, column, f"a column of {source}: {', '.join(columns)}")
    found = list({repr(row.get(column)): row.get(column) for row in rows}.values())
    for value in values:
        if value not in found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise InputError(key, value, f"a value of that column: {', '.join(map(repr, found[:SHOWN]))}{more}")
