"""Sequences of rows that are loaded where they are taken out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

from align.data.files import Row

AT_ONCE = 250  # rows in memory, which may each be as large as a book


class LazyRows(Sequence[Row]):
    """Base of such sequences; a subclass loads one row, or neighbours at once where that is quicker."""

    @abstractmethod
    def _row(self, at: int) -> Row:
        """Load the row at a place, from 0."""

    def _rows(self, start: int, stop: int) -> list[Row]:
        """Load the rows from one place up to another."""
        return [self._row(at) for at in range(start, stop)]

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return self._rows(start, max(start, stop))
        at = place + len(self) if place < 0 else place
        if not 0 <= at < len(self):
            raise IndexError(place)
        return self._row(at)

    def __iter__(self) -> Iterator[Row]:
        for at in range(0, len(self), AT_ONCE):
            yield from self[at : at + AT_ONCE]
