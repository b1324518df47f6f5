"""What the chat template leaves out of rows: refused where it is something said, else counted with the first row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from align.data.conversations import Message
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.models.coverage import TOOLS, Omission

# Rows.
COUNTS = ("keys_unwritten", "reasoning_unwritten", "tools_unwritten", "other_roles", "control_tokens_named")
ROLES = ("system", "developer", "user", "assistant", "tool")  # the usual ones
_ALLOWED = "what the chat template writes"


class Compared(NamedTuple):
    """A conversation with what is left out of it."""

    messages: Sequence[Message]
    replied: bool  # whether the last message is a response
    omitted: Sequence[Omission]


def omissions_of(conversations: Sequence[Compared], chat: ChatTokenizer, where: str) -> dict[str, str]:
    """Return the counts of a row that is not written as it stands, each with what is shown of it where it is the first.

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
                left = f"something out from {one.cut!r} on" if one.cut else "this out"
                given = f"{one.key} of a turn of {messages[one.turn]['role']!r}"
                raise InputError(where, given, f"{_ALLOWED} (it leaves {left})")
            elif (one.turn, one.key) == (-1, TOOLS):
                counts[COUNTS[2]] = where
            else:
                keys.add(one.key)
    if keys:
        counts[COUNTS[0]] = f"{where} ({', '.join(sorted(keys))})"
    roles = {message["role"] for messages, _, _ in conversations for message in messages} - {*ROLES}
    others = [role for role in sorted(roles) if not chat.names_role(role)]
    if others:
        counts[COUNTS[3]] = f"{where} ({', '.join(others)})"
    if any(chat.names_control_tokens(messages) for messages, _, _ in conversations):
        counts[COUNTS[4]] = where
    return counts


def notes(counts: Mapping[str, int], first: Mapping[str, str], chat: ChatTokenizer) -> Iterator[str]:
    """Say in a line each what the template writes otherwise than a user may think, or not at all."""
    others, named = COUNTS[3:]
    if counts[named]:
        key = f"model.control_tokens_in_text={chat.reads_names_as}"
        yield f"{counts[named]} rows spell control tokens in their texts ({key}), the first: {first[named]}"
    if counts[others]:
        usual = f"{', '.join(ROLES[:-1])} and {ROLES[-1]}"
        what = f"rows have turns of other roles than {usual}, which the chat template does not name"
        yield f"{counts[others]} {what}, the first: {first[others]}"
    omitted = ("keys of the messages", "the reasoning of answers before the response", "the tools")
    for name, left in zip(COUNTS[:3], omitted, strict=True):
        if counts[name]:
            yield f"the chat template leaves {left} of {counts[name]} rows out, the first: {first[name]}"
