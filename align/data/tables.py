"""Rows of Parquet and Arrow files, and of what `save_to_disk` of `datasets` wrote: cells as they are stored.

Nothing is decoded that no text needs: an image stays its bytes, so that a column which is not read needs no library.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import datasets
import pyarrow
import pyarrow.parquet

from align.config.data_files import format_of
from align.data.files import Row
from align.errors import InputError
from align.files import read_object

_DICT, _STATE = "dataset_dict.json", "state.json"  # what `save_to_disk` leaves beside the data


class TableRows(Sequence[Row]):
    """Rows of an Arrow table, which become Python's where they are taken out."""

    def __init__(self, table: pyarrow.Table) -> None:
        self._table, self._json = table, _json_columns(table.schema)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, int):
            return self[place : place + 1 or None][0]
        start, stop, _ = place.indices(len(self))
        rows: list[Row] = self._table.slice(start, max(0, stop - start)).to_pylist()
        return (
            [row | self._json.decode_example({n: row[n] for n in self._json}) for row in rows] if self._json else rows
        )


def read_table_file(file: Path, key: str) -> TableRows:
    """Read a Parquet file, or an Arrow file of either kind: a stream, as `datasets` writes it, or IPC.

    Raises:
        InputError: Two columns have one name, so that a row would lose one; it names `key`.
    """
    table = _table(file)
    names = table.column_names
    if len(set(names)) < len(names):
        raise InputError(key, str(file), f"a file whose columns have different names, not {', '.join(names)}")
    return TableRows(table)


def _table(file: Path) -> pyarrow.Table:
    if format_of(file) == "parquet":
        return pyarrow.parquet.ParquetFile(file).read()  # the file alone: folders may be named like columns
    with pyarrow.OSFile(str(file)) as source:
        try:
            return pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(source).read_all()


def is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return (folder / _DICT).is_file() or (folder / _STATE).is_file()


def read_saved(folder: Path) -> dict[str, Sequence[Row]]:
    """Read what `save_to_disk` wrote, by split; a data set without splits is `train`, like a file."""
    if not (folder / _DICT).is_file():
        return {"train": _saved(folder)}
    return {name: _saved(folder / name) for name in saved_splits(folder)}


def saved_splits(folder: Path) -> list[str]:
    """Name the splits that `save_to_disk` wrote."""
    if not (folder / _DICT).is_file():
        return ["train"]
    return list(map(str, read_object(folder / _DICT, "as `datasets` writes it", splits=list)["splits"]))


def _saved(folder: Path) -> Sequence[Row]:
    """Read one data set; `datasets` loads none that has no file or no row."""
    if not read_object(folder / _STATE, "as `datasets` writes it").get("_data_files"):
        return ()
    data = datasets.load_from_disk(str(folder))
    return TableRows(data.with_format("arrow")[:]) if len(data) else ()


def _json_columns(schema: pyarrow.Schema) -> datasets.Features:
    """Find the columns whose values of mixed types `datasets` stores as JSON, as the schema's metadata say."""
    stated = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = stated.get("info", {}).get("features") or {}
    held = {name: own for name, own in features.items() if '"_type": "Json"' in json.dumps(own)}
    return datasets.Features.from_dict({name: own for name, own in held.items() if name in schema.names})
