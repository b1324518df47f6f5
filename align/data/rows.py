"""Rows as they were loaded, of one source or a mixture, and their shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from align.config import DataConfig, Shape
from align.data.columns import Columns
from align.data.mixture import Source, load_source, load_sources
from align.data.shapes import columns_of, recognise
from align.data.sources import Row, load_rows, unread_splits
from align.errors import InputError


class Rows(NamedTuple):
    """Rows as they were loaded."""

    train: list[Source]
    held_out: Sequence[Row] | None  # None = a share of the training rows
    shape: Shape
    columns: list[str]  # that are read
    notes: tuple[str, ...] = ()  # a line on each folder of which splits stay unread

    def __str__(self) -> str:
        return f"{self.shape.words} rows ({', '.join(self.columns)})"


def read_rows(config: DataConfig) -> Rows:
    """Load the rows that `config` names, and recognise their shape by the first.

    Raises:
        InputError: The data cannot be read, or have no shape; held-out rows have other columns.
    """
    sources, held_out = load_sources(config), _held_rows(config)
    shapes = {source.name: _shape(source.rows[0], source.config, source.place) for source in sources}
    (first, (shape, _)), *others = shapes.items()
    for name, (other, _) in others:
        if other is not shape:
            allowed = f"rows of shape {shape.value}, as those of data.mixture.{first} are"
            raise InputError(f"data.mixture.{name}", other.value, allowed)
    if held_out is not None:
        _shape(held_out[0], replace(config, shape=shape), config.held_out_path or config.named())
    columns = list(dict.fromkeys(name for _, own in shapes.values() for name in own))
    return Rows(sources, held_out, shape, columns, tuple(_unread(config)))


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
