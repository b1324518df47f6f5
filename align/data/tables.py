"""Rows of Parquet and Arrow files, and of what `save_to_disk` of `datasets` wrote: cells as they are stored.

Nothing is decoded that no text needs: an image stays its bytes, so that a column which is not read needs no library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow
import pyarrow.parquet

from align.config.data_files import format_of
from align.data.files import Row
from align.data.lazy_rows import AT_ONCE, LazyRows
from align.errors import InputError
from align.files import read_object

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of an Arrow stream
_DICT, _STATE = "dataset_dict.json", "state.json"  # what `save_to_disk` leaves beside the data


class TableRows(LazyRows):
    """Rows of an Arrow table, which become Python's where they are taken out."""

    def __init__(self, table: pyarrow.Table) -> None:
        self._table, self._json = table, _json_columns(table.schema)

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._table.schema.names)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def _row(self, at: int) -> Row:
        return self._rows(at, at + 1)[0]

    def _rows(self, start: int, stop: int) -> list[Row]:
        rows: list[Row] = self._table.slice(start, stop - start).to_pylist()
        return (
            [row | self._json.decode_example({n: row[n] for n in self._json}) for row in rows] if self._json else rows
        )


class Batches(NamedTuple):
    """A table that is read batch by batch."""

    schema: pyarrow.Schema
    batches: Iterable[pyarrow.RecordBatch]


@contextmanager
def table_file(file: Path, key: str) -> Iterator[Batches]:
    """Open a Parquet file, or an Arrow file of either kind: a stream, as `datasets` writes it, or IPC.

    Raises:
        InputError: Two columns have one name, so that a row would lose one; it names `key`.
    """
    with _opened(file) as found:
        names = found.schema.names
        if len(set(names)) < len(names):
            raise InputError(key, str(file), f"a file whose columns have different names, not {', '.join(names)}")
        yield found


@contextmanager
def _opened(file: Path) -> Iterator[Batches]:
    if format_of(file) == "parquet":
        with pyarrow.parquet.ParquetFile(file) as found:  # the file alone: folders may be named like columns
            yield Batches(found.schema_arrow, found.iter_batches(AT_ONCE))
        return
    with pyarrow.memory_map(str(file)) as source:
        try:
            stream = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            held = pyarrow.ipc.open_file(source)
            yield Batches(held.schema, (held.get_batch(i) for i in range(held.num_record_batches)))
        else:
            yield Batches(stream.schema, _to_its_end(stream, source))


def _to_its_end(stream: Iterable[pyarrow.RecordBatch], source: pyarrow.NativeFile) -> Iterator[pyarrow.RecordBatch]:
    """Yield the batches of a stream; raise ArrowInvalid where its end is missing, as of a writer that was killed."""
    yield from stream
    end = source.tell()
    source.seek(max(0, end - len(_END)))
    if source.read(len(_END)) != _END:
        raise pyarrow.ArrowInvalid("the end of the stream is missing: it is cut off")


def is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return (folder / _DICT).is_file() or (folder / _STATE).is_file()


def read_saved(folder: Path) -> dict[str, list[datasets.Dataset]]:
    """Open what `save_to_disk` wrote, by split; a data set without splits is `train`, like a file."""
    if not (folder / _DICT).is_file():
        return {"train": _saved(folder)}
    names = read_object(folder / _DICT, "as `datasets` writes it", splits=list)["splits"]
    return {str(name): _saved(folder / str(name)) for name in names}


def _saved(folder: Path) -> list[datasets.Dataset]:
    """Open one data set; none where it has no row: `datasets` loads none without a file."""
    if not read_object(folder / _STATE, "as `datasets` writes it").get("_data_files"):
        return []
    data = datasets.load_from_disk(str(folder))
    return [data] if len(data) else []


def batches_of(found: datasets.Dataset) -> Batches:
    """Read a data set of `datasets` batch by batch, its cells as they are stored."""
    held = found.with_format("arrow")
    blocks = (held[at : at + AT_ONCE] for at in range(0, len(held), AT_ONCE))
    return Batches(held[:0].schema, (batch for block in blocks for batch in block.to_batches()))


def _json_columns(schema: pyarrow.Schema) -> datasets.Features:
    """Find the columns whose values of mixed types `datasets` stores as JSON, as the schema's metadata say."""
    stated = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = stated.get("info", {}).get("features") or {}
    held = {name: own for name, own in features.items() if '"_type": "Json"' in json.dumps(own)}
    return datasets.Features.from_dict({name: own for name, own in held.items() if name in schema.names})
