"""Arrow tables, written row by row and read where they lie: in memory, or in memory-mapped files of a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow

from align.libraries import reason

_ROWS, _BYTES = 1000, 2**22  # of a batch, whichever is reached first: a row may be as large as a book


class StoreError(Exception):
    """A table that cannot be written: the disk is full, or nothing may be written there."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # Arrow's are such too
        raise StoreError(reason(error)) from error


class Store:
    """Place of the tables of one data set: a folder, or memory where there is none."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._held: dict[str, pyarrow.Table] = {}
        self._names = 0

    def new_name(self, kind: str) -> str:
        """Return a name that no other table has."""
        self._names += 1
        return f"{kind}-{self._names}"

    def writer(self, name: str, schema: pyarrow.Schema) -> Writer:
        """Begin a table, which `table` finds by its name once the writer is closed."""
        return Writer(self, name, schema)

    def written(self, name: str, schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> pyarrow.Table:
        """Write a table of batches that are there, and return it."""
        with _writing():
            sink = self.sink(name)
            out = pyarrow.ipc.new_stream(sink, schema)
        for batch in batches:
            with _writing():
                out.write_batch(batch)
        with _writing():
            out.close()
            return self.keep(name, sink)

    def table(self, name: str) -> pyarrow.Table:
        """Return a table that was written, memory-mapped where it is a file's."""
        if name not in self._held:
            assert self.folder is not None
            source = pyarrow.memory_map(str(self.file(name)))
            self._held[name] = pyarrow.ipc.open_stream(source).read_all()
        return self._held[name]

    def sink(self, name: str) -> Any:
        """Open what a table is written to."""
        return pyarrow.BufferOutputStream() if self.folder is None else pyarrow.OSFile(str(self.file(name)), "wb")

    def keep(self, name: str, sink: Any) -> pyarrow.Table:
        """Return a table whose last batch is in its sink."""
        if self.folder is None:
            self._held[name] = pyarrow.ipc.open_stream(sink.getvalue()).read_all()
        else:
            sink.close()
        return self.table(name)

    def file(self, name: str) -> Path:
        """Return the file of a table of a folder."""
        assert self.folder is not None
        return self.folder / f"{name}.arrow"


class Writer:
    """Writes a table row by row, in batches, so that few rows are in memory at once."""

    def __init__(self, store: Store, name: str, schema: pyarrow.Schema) -> None:
        self._store, self._name, self._schema = store, name, schema
        with _writing():
            self._sink = store.sink(name)
            self._out = pyarrow.ipc.new_stream(self._sink, schema)
        self._rows: list[Sequence[Any]] = []
        self._bytes = 0
        self.written = 0  # rows

    def add(self, *cells: Any) -> int:
        """Write a row, its cells in the order of the schema; returns its place."""
        self._rows.append(cells)
        self._bytes += sum(len(cell) for cell in cells if isinstance(cell, bytes))
        if len(self._rows) == _ROWS or self._bytes > _BYTES:
            self._flush()
        self.written += 1
        return self.written - 1

    def close(self) -> pyarrow.Table:
        """Write what is left and return the whole table."""
        self._flush()
        with _writing():
            self._out.close()
            return self._store.keep(self._name, self._sink)

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pyarrow.array(cells, own.type) for cells, own in zip(columns, self._schema, strict=True)]
            with _writing():
                self._out.write_batch(pyarrow.record_batch(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0
