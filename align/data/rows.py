"""Rows as they were loaded, of one source or a mixture, and their shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from align.activity import Activity
from align.config import Caching, DataConfig, Shape
from align.data.cache import Unkept, is_kept
from align.data.columns import Columns
from align.data.files import Row
from align.data.mixture import Source, load_sources, named_rows
from align.data.shapes import columns_of, recognise
from align.data.sources import Located, Wanted, locate, read_located
from align.errors import InputError


class Rows(NamedTuple):
    """Rows as they were loaded."""

    train: list[Source]
    held_out: Sequence[Row] | None  # None = a share of the training rows
    held_out_shape: Shape
    columns: list[str]  # that are read
    kinds: Mapping[str, str]  # of each source, shape and columns in words
    notes: tuple[str, ...] = ()  # a line on each folder of which splits stay unread
    made_of: dict[str, Any] | None = None  # all that decides on them; None = they are not kept

    def every(self) -> list[Sequence[Row]]:
        """Return the rows in the order in which they are read."""
        return [*(source.rows for source in self.train), *([] if self.held_out is None else [self.held_out])]

    @property
    def shape(self) -> Shape:
        """The shape of all sources, or that they differ."""
        found = {source.shape for source in self.train}
        return Shape.mixed if len(found) > 1 else self.train[0].shape

    def __str__(self) -> str:
        if self.shape is Shape.mixed:
            return f"rows of several shapes: {'; '.join(f'{name} {kind}' for name, kind in self.kinds.items())}"
        return f"{self.shape.words} rows ({', '.join(self.columns)})"


def read_rows(config: DataConfig, activity: Activity | None = None) -> Rows:
    """Load the rows that `config` names, and recognise the shape of each source by its first row.

    Raises:
        InputError: The data cannot be read, or have no shape; held-out rows have other columns.
    """
    located = {name: locate(named_rows(own, name)) for name, own in config.sources().items()}
    apart = _located_held_out(config)
    every = [*located.values(), *([] if apart is None else [apart])]
    keep = is_kept(config.cache, [file for one in every for file in one.files()])
    notes = list(_unread(config, located))
    try:
        found = [read_located(one, activity, keep=keep) for one in every]
    except Unkept as error:
        if config.cache is not Caching.auto:
            raise unkept(config, error) from error
        notes.append(f"no cache of rows and tokens, which are read into memory: {error}")
        keep, found = False, [read_located(one, activity) for one in every]
    sources = load_sources(config, dict(zip(located, found, strict=False)))
    held_out = None if apart is None else found[-1]
    read = [_shape(source.rows[0], source.config, source.place) for source in sources]
    sources = [replace(source, shape=shape) for source, (shape, _) in zip(sources, read, strict=True)]
    _check_tools(config, [source.rows[0] for source in sources])
    shape = sources[0].shape if len({source.shape for source in sources}) == 1 else config.shape
    if held_out is not None:
        shape, _ = _shape(held_out[0], replace(config, shape=shape), config.held_out_path or config.named())
    columns = list(dict.fromkeys(name for _, own in read for name in own))
    kinds = {
        one.name: f"{own.words} rows ({', '.join(names)})" for one, (own, names) in zip(sources, read, strict=True)
    }
    made_of = {"rows": [one.parts_of() for one in every]} if keep else None
    return Rows(sources, held_out, shape, columns, kinds, tuple(notes), made_of)


def unkept(config: DataConfig, error: Unkept) -> InputError:
    """Describe a cache that cannot be written."""
    allowed = f"an ALIGN_HOME where it can be written: {error}; data.cache=never reads into memory"
    return InputError("data.cache", config.cache.value, allowed)


def _unread(config: DataConfig, located: Mapping[str, Located]) -> Iterator[str]:
    """Name the splits of each folder of training rows that neither side reads."""
    for name, source in config.sources().items():
        used = [source.train_split, config.held_out_split or ""]
        if config.held_out_path == source.path and not config.held_out_split:
            used.append("train")
        names = located[name].unread(used)
        if names:
            held_out = "" if config.mixture else f" (data.held_out_split={names[0]} holds one out)"
            yield f"splits of {source.path} that are not read: {', '.join(names)}{held_out}"


def _shape(row: Row, config: DataConfig, source: str) -> tuple[Shape, list[str]]:
    """Return the shape of rows by their first, and the columns that are read of them."""
    columns = Columns(config)
    cells = columns.checked(row, source)
    shape = recognise(cells, columns.config, source)
    return shape, columns.named(columns_of(shape, cells, columns.config))


def _check_tools(config: DataConfig, first: Sequence[Row]) -> None:
    """Refuse a column of tools that was asked for and that no source has; the default's is read where it is there."""
    name = config.tools_column
    if name not in (None, DataConfig.tools_column) and not any(name in row for row in first):
        columns = ", ".join(dict.fromkeys(column for row in first for column in row))
        raise InputError("data.tools_column", name, f"a column of {config.named()}: {columns}")


def _located_held_out(config: DataConfig) -> Located | None:
    """Find the held-out rows of a path or a split of their own; None where they are cut off the training rows."""
    if config.held_out_path is not None:
        split, split_key = config.held_out_split or "train", "data.held_out_split"
        key = "data.held_out_path"
        return locate(Wanted(config.held_out_path, key, split, split_key, subset=config.subset))
    if config.held_out_split is not None:
        return locate(named_rows(config, "", split=config.held_out_split, split_key="held_out_split"))
    return None
