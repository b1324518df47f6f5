"""Rows as they were loaded, of one source or a mixture, and their shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from align.config import DataConfig, Shape
from align.data.columns import Columns
from align.data.mixture import Source, load_source, load_sources
from align.data.shapes import columns_of, recognise
from align.data.sources import Row, load_rows, unread_splits


class Rows(NamedTuple):
    """Rows as they were loaded."""

    train: list[Source]
    held_out: Sequence[Row] | None  # None = a share of the training rows
    held_out_shape: Shape
    columns: list[str]  # that are read
    kinds: Mapping[str, str]  # of each source, shape and columns in words
    notes: tuple[str, ...] = ()  # a line on each folder of which splits stay unread

    @property
    def shape(self) -> Shape:
        """The shape of all sources, or that they differ."""
        found = {source.shape for source in self.train}
        return Shape.mixed if len(found) > 1 else self.train[0].shape

    def __str__(self) -> str:
        if self.shape is Shape.mixed:
            return f"rows of several shapes: {'; '.join(f'{name} {kind}' for name, kind in self.kinds.items())}"
        return f"{self.shape.words} rows ({', '.join(self.columns)})"


def read_rows(config: DataConfig) -> Rows:
    """Load the rows that `config` names, and recognise the shape of each source by its first row.

    Raises:
        InputError: The data cannot be read, or have no shape; held-out rows have other columns.
    """
    sources, held_out = load_sources(config), _held_rows(config)
    read = [_shape(source.rows[0], source.config, source.place) for source in sources]
    sources = [replace(source, shape=shape) for source, (shape, _) in zip(sources, read, strict=True)]
    shape = sources[0].shape if len({source.shape for source in sources}) == 1 else config.shape
    if held_out is not None:
        shape, _ = _shape(held_out[0], replace(config, shape=shape), config.held_out_path or config.named())
    columns = list(dict.fromkeys(name for _, own in read for name in own))
    kinds = {
        one.name: f"{own.words} rows ({', '.join(names)})" for one, (own, names) in zip(sources, read, strict=True)
    }
    return Rows(sources, held_out, shape, columns, kinds, tuple(_unread(config)))


def _unread(config: DataConfig) -> Iterator[str]:
    """Name the splits of each folder of training rows that neither side reads."""
    for source in config.sources().values():
        used = [source.train_split, config.held_out_split or ""]
        if config.held_out_path == source.path and not config.held_out_split:
            used.append("train")
        names = unread_splits(str(source.path), "data.path", source.subset, used)
        if names:
            held_out = "" if config.mixture else f" (data.held_out_split={names[0]} holds one out)"
            yield f"splits of {source.path} that are not read: {', '.join(names)}{held_out}"


def _shape(row: Row, config: DataConfig, source: str) -> tuple[Shape, list[str]]:
    """Return the shape of rows by their first, and the columns that are read of them."""
    columns = Columns(config)
    cells = columns.checked(row, source)
    shape = recognise(cells, columns.config, source)
    return shape, columns.named(columns_of(shape, cells, columns.config))


def _held_rows(config: DataConfig) -> Sequence[Row] | None:
    """Load the held-out rows of a path or a split of their own; None where they are cut off the training rows."""
    if config.held_out_path is not None:
        split = config.held_out_split or "train"
        key, split_key = "data.held_out_path", "data.held_out_split"
        return load_rows(config.held_out_path, key=key, split=split, split_key=split_key, subset=config.subset)
    if config.held_out_split is not None:
        return load_source(config, "", split=config.held_out_split, split_key="held_out_split")
    return None
