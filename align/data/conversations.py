"""Cells of a data row as messages: strings, message lists, whole conversations, tools, a system turn."""

import json
import re
from collections.abc import Mapping
from typing import Any

from align.config import DataConfig
from align.data.json_text import read_json
from align.errors import InputError

Message = Mapping[str, Any]
_TURN = re.compile(r"\n\n(Human|Assistant):")  # how Anthropic's HH writes a conversation into one string
_CELL = "text or a list of messages {role, content}"


def read_tools(row: Mapping[str, Any], config: DataConfig, where: str) -> tuple[Any, ...] | None:
    """Read the tools that a row's conversation may call; None where its column is missing or empty.

    Raises:
        InputError: The cell is no list of tools, nor JSON that holds one.
    """
    cell = row.get(config.tools_column) if config.tools_column is not None else None
    if isinstance(cell, str) and cell.strip():
        try:
            cell = read_json(cell)
        except json.JSONDecodeError:
            cell = (cell,)
    if not cell:
        return None
    if not isinstance(cell, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in cell):
        raise InputError(f"{where}, column {config.tools_column}", brief(cell), "a list of tools, each a JSON schema")
    return tuple(cell)


def is_dialogue(value: object) -> bool:
    """Return whether a text is a dialogue in Human:/Assistant: turns; blanks before the first may have been cut off."""
    if not isinstance(value, str):
        return False
    return _TURN.match(value) is not None or (value.startswith("Human:") and value.rstrip().endswith("\n\nAssistant:"))


def is_conversation(value: object) -> bool:
    """Return whether a response cell may hold its prompt too: a message list, or Human:/Assistant: turns."""
    return isinstance(value, list) or is_dialogue(value)


def read_cell(value: object, place: str) -> str | list[Message]:
    """Return a cell as a string or a checked list of messages, each with all keys that it gives a value."""
    if isinstance(value, str):
        return _well_formed(value, place)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(place, brief(value), _CELL)
    return [_message(message, place) for message in value]


def _message(given: object, place: str) -> Message:
    """Check one message: its role and its content, which only a call of tools may lack; parts of text become one."""
    if isinstance(given, str):
        raise InputError(
            place,
            f"a list of strings ({brief(given)!r}, ...)",
            f"{_CELL}: one response to a row, or ranked lists (data.shape=ranked, data.responses_column)",
        )
    if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
        raise InputError(place, brief(given), _CELL)
    message = {key: value for key, value in given.items() if value is not None}  # Arrow gives every message every key
    content = message.get("content", "" if calls(message) else None)
    if isinstance(content, (list, tuple)):
        content = "".join(_part(part, place) for part in content)
    if not isinstance(content, str):
        raise InputError(place, brief(given), _CELL)
    _well_formed(json.dumps(message, ensure_ascii=False, default=str), place)  # with all that it holds
    return message | {"content": content}


def _part(part: object, place: str) -> str:
    """Return the text of a part of a content; parts follow each other as templates write them, nothing between."""
    given = {key: value for key, value in part.items() if value is not None} if isinstance(part, Mapping) else part
    if isinstance(given, Mapping) and given.get("type") == "text" and isinstance(given.get("text"), str):
        return str(given["text"])
    what = f"a part of type {given['type']!r}" if isinstance(given, Mapping) and given.get("type") else brief(given)
    raise InputError(place, what, "content that is text, or parts {type: text, text: ...}: no images, audio or files")


def _well_formed(text: str, place: str) -> str:
    """Return a text that is Unicode; a half of a surrogate pair, as JSON can escape it, is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(place, ascii(text[error.start : error.start + 10]), "well-formed Unicode") from error
    return text


def split_reply(value: str | list[Message], place: str) -> tuple[tuple[Message, ...], Message]:
    """Split a cell into the turns before the response, if any, and the response."""
    if isinstance(value, str):
        return (), {"role": "assistant", "content": value}
    if value[-1]["role"] != "assistant":
        raise InputError(place, f"a last message by {value[-1]['role']}", "a conversation that the assistant ends")
    return tuple(value[:-1]), value[-1]


def calls(message: Message) -> bool:
    """Return whether a message calls a tool, also under the key that was usual before `tool_calls`."""
    return bool(message.get("tool_calls") or message.get("function_call"))


def is_empty(reply: Message) -> bool:
    """Return whether a response says nothing and calls no tool."""
    return not reply["content"].strip() and not calls(reply)


def join_prompt(explicit: str | list[Message] | None, shared: tuple[Message, ...], place: str) -> tuple[Message, ...]:
    """Join a prompt cell and the turns before the responses, either of which may be empty."""
    stated = ({"role": "user", "content": explicit},) if isinstance(explicit, str) else tuple(explicit or ())
    short, messages = sorted((stated, shared), key=len)  # either may hold a system turn that the other lacks
    if short and messages[-len(short) :] != short:
        allowed = f"the turn before the response ({brief(shared[-1]['content'])!r})"
        raise InputError(place, brief(stated[-1]["content"]), allowed)
    if not messages or messages[-1]["role"] == "assistant" or not messages[-1]["content"].strip():
        given = f"{messages[-1]['role']}: {messages[-1]['content']}" if messages else None
        raise InputError(place, brief(given), "a prompt that ends with a user's message, not empty")
    return messages


def system_turn(text: object, messages: tuple[Message, ...], place: str) -> tuple[Message, ...]:
    """Return the system turn of a cell; none where the cell is blank or missing."""
    if text is None or (isinstance(text, str) and not text.strip()):
        return ()
    if not isinstance(text, str):
        raise InputError(place, brief(text), "text")
    if messages[0]["role"] == "system":
        raise InputError(place, brief(text), "nothing, where the prompt begins with a system message of its own")
    return ({"role": "system", "content": text},)


def read_dialogue(text: str, place: str) -> list[Message]:
    """Parse a string of "\\n\\nHuman: ...\\n\\nAssistant: ..." turns into messages."""
    start, *parts = _TURN.split(text if _TURN.match(text) else f"\n\n{text}")
    if start.strip() or not parts:
        raise InputError(place, brief(text), "a prompt column, message lists, or text in Human:/Assistant: turns")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[who], "content": said.strip()} for who, said in turns]


def brief(value: object) -> object:
    """Shorten a cell for an error message, which is one line."""
    text = value if isinstance(value, str) else repr(value)
    return value if len(text) <= 60 else text[:60] + "..."
