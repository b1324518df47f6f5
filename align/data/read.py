"""What was read of rows, with the places of these rows: content stays in the store until it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from align.config import Shape
from align.data.files import Row
from align.data.lazy_rows import LazyRows
from align.data.stored_examples import StoredCompletion, StoredPrompt
from align.data.stored_rows import place_of


class Place(NamedTuple):
    """Place of a row."""

    rows: Sequence[Row]
    at: int  # in them
    number: int  # of the rows among all that are read
    origin: str  # what names them where they know no files
    why: str = ""  # the row is malformed

    @property
    def row(self) -> Row:
        """Return the row as it was loaded."""
        return self.rows[self.at]

    @property
    def where(self) -> str:
        """Name the row by its file and its number there, from 1."""
        return place_of(self.rows, self.at, self.origin)


class Read(NamedTuple):
    """A row that was read; its prompt holds the first row with that prompt."""

    prompt: StoredPrompt
    completions: tuple[StoredCompletion, ...]  # chosen and rejected; or ranked ones; or one; or none
    scores: tuple[float, ...]  # of ranked completions
    earlier: tuple[StoredCompletion, ...]
    place: Place
    source: str = ""  # of a mixture
    shape: Shape = Shape.preference

    @property
    def row(self) -> Row:
        """Return the row as it was loaded."""
        return self.place.row


class RowsOf(LazyRows):
    """The rows of what was read, loaded one by one."""

    def __init__(self, read: Sequence[Read]) -> None:
        self._read = read

    def __len__(self) -> int:
        return len(self._read)

    def _row(self, at: int) -> Row:
        return self._read[at].row
