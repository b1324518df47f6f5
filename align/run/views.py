"""What `align show` prints, as plain values: titled facts, rows of data as the model sees them. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

Table = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A titled table of texts; the first line is its head where `headed`."""

    title: str
    lines: Table
    headed: bool = False


@dataclass(frozen=True)
class Segment:
    """A stretch of text, special tokens written out; `counts` where its tokens are in the loss."""

    text: str
    role: str = ""  # of the message that says it; empty for what the template writes
    counts: bool = False


@dataclass(frozen=True)
class Sample:
    """One sequence of a row that the model reads."""

    title: str
    segments: Sequence[Segment]
    note: str = ""


@dataclass(frozen=True)
class View:
    """All that is to be said of a run's data or model before anything is trained."""

    sections: Sequence[Section]
    samples: Sequence[Sample] = ()


@dataclass(frozen=True)
class Selection:
    """Which rows are shown; the first two where nothing is chosen."""

    rows: int | None = None  # from the first on
    row: int | None = None  # the one, counted from 1
    random: int | None = None  # so many, by the run's seed
    longest: int | None = None  # so many
    dropped: int = 0  # and so many of each kind that were left out
    diff: bool = False  # against the plain render of the template
