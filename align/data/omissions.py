"""What the chat template leaves out of rows: refused where it is something said, else counted with the first row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from align.data.conversations import Message
from align.errors import InputError
from align.models.coverage import TOOLS, Omission

COUNTS = ("keys_unwritten", "reasoning_unwritten", "tools_unwritten")  # rows
_ALLOWED = "what the chat template writes"


class Compared(NamedTuple):
    """A conversation with what is left out of it."""

    messages: Sequence[Message]
    replied: bool  # whether the last message is a response
    omitted: Sequence[Omission]


def omissions_of(conversations: Iterable[Compared], where: str) -> dict[str, str]:
    """Return the counts of what is left out of a row, each with what is shown of the row where it is the first.

    Raises:
        InputError: What is left out is something said, or a call of a tool, other than the reasoning of an answer
            before the response.
    """
    keys, counts = set[str](), dict[str, str]()
    for messages, replied, omitted in conversations:
        for one in omitted:
            if one.reasoning and not (replied and one.turn == len(messages) - 1):
                counts[COUNTS[1]] = where
            elif one.is_said:
                left = "a part of this" if one.cut else "this"
                given = f"{one.key} of a turn of {messages[one.turn]['role']!r}"
                raise InputError(where, given, f"{_ALLOWED} (it leaves {left} out)")
            elif (one.turn, one.key) == (-1, TOOLS):
                counts[COUNTS[2]] = where
            else:
                keys.add(one.key)
    if keys:
        counts[COUNTS[0]] = f"{where} ({', '.join(sorted(keys))})"
    return counts


def notes(counts: Mapping[str, int], first: Mapping[str, str]) -> Iterator[str]:
    """Say in a line each what the template leaves out of rows."""
    what = ("keys of the messages", "the reasoning of answers before the response", "the tools")
    for name, left in zip(COUNTS, what, strict=True):
        if counts[name]:
            yield f"the chat template leaves {left} of {counts[name]} rows out, the first: {first[name]}"
