"""Rows of data files, kept in Arrow tables: taken out one by one, so that a data set need not fit in memory."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import pyarrow

from align.data.arrow import Store
from align.data.files import Row
from align.data.lazy_rows import LazyRows
from align.data.tables import Batches, TableRows

_JSON = pyarrow.schema([("row", pyarrow.large_binary())], metadata={"rows": "json"})


class JsonRows(LazyRows):
    """Rows of any columns and types that JSON has, each written as JSON."""

    def __init__(self, table: pyarrow.Table, columns: Sequence[str]) -> None:
        self._cells, self.columns = table.column("row"), columns

    def __len__(self) -> int:
        return len(self._cells)

    def _row(self, at: int) -> Row:
        row: Row = json.loads(self._cells[at].as_py())
        return row

    def _rows(self, start: int, stop: int) -> list[Row]:
        return [json.loads(cell.as_py()) for cell in self._cells.slice(start, stop - start)]


class Part(NamedTuple):
    """Rows of one file that are taken, from one place up to another."""

    table: str  # its name in the store
    rows: JsonRows | TableRows
    start: int
    stop: int
    file: str  # what a message names


class StoredRows(LazyRows):
    """Rows of files one behind the other; every row has every column, None where its file or line has none."""

    def __init__(self, parts: Iterable[Part], columns: Sequence[str] | None = None) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(part.stop - part.start for part in self.parts))
        self.columns = columns or list(dict.fromkeys(name for part in self.parts for name in part.rows.columns))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def place(self, at: int) -> str:
        """Name a row by its file and its number there, from 1."""
        part, own = self._found(at)
        return f"{part.file}, row {own + 1}"

    def _found(self, at: int) -> tuple[Part, int]:
        """Return the part that holds a row, and the row's place in its file."""
        number = bisect_right(self._ends, at)
        return self.parts[number], self.parts[number].stop - self._ends[number] + at

    def _row(self, at: int) -> Row:
        part, own = self._found(at)
        return self._whole(part.rows[own])

    def _rows(self, start: int, stop: int) -> list[Row]:
        rows = list[Row]()
        for part, end in zip(self.parts, self._ends, strict=True):
            shift = part.stop - end
            first, last = max(part.start, start + shift), min(part.stop, stop + shift)
            rows += map(self._whole, part.rows[first : max(first, last)])
        return rows

    def _whole(self, row: Row) -> Row:
        return {name: row.get(name) for name in self.columns}

    def facts(self) -> dict[str, Any]:
        """Describe the rows as JSON, from which `reopened` finds them in their store."""
        parts = [[part.table, list(part.rows.columns), part.start, part.stop, part.file] for part in self.parts]
        return {"parts": parts, "columns": list(self.columns)}


class PickedRows(LazyRows):
    """Some rows of a sequence, in an order of their own."""

    def __init__(self, rows: Sequence[Row], places: Sequence[int]) -> None:
        self.rows, self.places = rows, places

    def __len__(self) -> int:
        return len(self.places)

    def place(self, at: int) -> str:
        """Name a row by its file and its number there, from 1."""
        return place_of(self.rows, self.places[at])

    def _row(self, at: int) -> Row:
        return self.rows[self.places[at]]


def place_of(rows: Sequence[Row], at: int, source: str = "rows") -> str:
    """Name a row of any sequence; one that knows no files has all of its rows from `source`."""
    return rows.place(at) if isinstance(rows, StoredRows | PickedRows) else f"{source}, row {at + 1}"


def reopened(store: Store, facts: Mapping[str, Any]) -> StoredRows:
    """Find rows in a store again."""
    parts = []
    for name, columns, start, stop, file in facts["parts"]:
        parts.append(Part(name, _rows_in(store.table(name), columns), start, stop, file))
    return StoredRows(parts, facts["columns"])


def _rows_in(table: pyarrow.Table, columns: Sequence[str]) -> JsonRows | TableRows:
    held_as_json = (table.schema.metadata or {}).get(b"rows") == b"json"
    return JsonRows(table, columns) if held_as_json else TableRows(table)


def keep_rows(store: Store, name: str, rows: Iterable[Row]) -> JsonRows:
    """Write rows of JSON's types to a store."""
    writer, columns = store.writer(name, _JSON), dict[str, None]()
    for row in rows:
        columns.update(dict.fromkeys(row))
        writer.add(json.dumps(row).encode())
    return JsonRows(writer.close(), list(columns))


def keep_table(store: Store, name: str, found: Batches) -> TableRows:
    """Write a table of any types to a store."""
    return TableRows(store.written(name, *found))
