"""Columns of rows that are not read, though their names say that they belong to the conversation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from align.data.conversations import Message
from align.data.files import Row

COUNTS = ("system_unread", "media_unread")  # rows
_SYSTEM = ("system", "system_prompt")
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")


def unread_of(row: Row, read: Collection[str], messages: Sequence[Message], where: str) -> dict[str, str]:
    """Return the counts of such columns that a row fills, each with what is shown of the row where it is the first.

    Args:
        read: The columns that are read.
        messages: Of the row: a system turn of its own stands in place of a system column's.
    """
    counts = {}
    system = [name for name in _SYSTEM if name in row and name not in read and _holds_text(row[name])]
    if system and messages[0]["role"] != "system":
        counts[COUNTS[0]] = f"{where} (data.system_column={system[0]} reads it)"
    media = [name for name in _MEDIA if name in row and name not in read and row[name]]
    if media:
        counts[COUNTS[1]] = f"{where} ({', '.join(media)})"
    return counts


def notes(counts: Mapping[str, int], first: Mapping[str, str]) -> Iterator[str]:
    """Say in a line each what is not read."""
    what = ("a system text in a column that is not read", "images, audio or video, which is not read beside text")
    for name, held in zip(COUNTS, what, strict=True):
        if counts[name]:
            yield f"{counts[name]} rows hold {held}, the first: {first[name]}"


def _holds_text(cell: object) -> bool:
    return isinstance(cell, str) and bool(cell.strip())
