"""Cells of a row as the reader takes them: texts by the templates of `data.*`, messages and turns that texts hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from align.config import DataConfig
from align.config.text_templates import read_template
from align.data.conversations import is_dialogue, read_dialogue
from align.data.files import Row
from align.data.json_text import read_json, read_json_at
from align.errors import InputError

COUNTS = ("template_cells_missing", "messages_in_text", "dialogues_in_text")  # rows
# What holds text or messages.
_READ = ("prompt_column", "chosen_column", "rejected_column", "completion_column", "messages_column")
_ROLES = "system|developer|user|assistant|tool"
# How a text begins that is meant as messages, as JSON or as Python writes a list; an answer may well be other JSON.
_BEGINS = re.compile(
    rf"""\s*(?:\[\s*\{{\s*(["'])(?:role|content|from|value)\1\s*:|\{{\s*(["'])role\2\s*:\s*\2(?:{_ROLES})\2)"""
)


class Cells(NamedTuple):
    row: Row  # with a column for each template
    found: tuple[str, ...]  # of COUNTS


class Columns:
    """What is read of a row: by the names of its columns, or written by templates into columns of their own."""

    def __init__(self, config: DataConfig) -> None:
        self._templates = {
            name: read_template(f"data.{name}", template, constant=name == "system")
            for name, template in config.templates().items()
        }
        columns: dict[str, Any] = {f"{name}_column": f"data.{name}" for name in self._templates}
        self.config = replace(config, **columns)
        self._read = [
            getattr(self.config, name) for name in _READ if name.removesuffix("_column") not in self._templates
        ]

    def checked(self, first: Row, source: str) -> Row:
        """Return a first row with the columns and the kinds of cells that are read, whatever the texts are.

        Raises:
            InputError: A template names a column that the rows lack.
        """
        for name, template in self._templates.items():
            for column in template.columns:
                if column not in first:
                    raise InputError(f"data.{name}", f"{{{column}}}", f"columns of {source}: {', '.join(first)}")
        written = {f"data.{name}": "" for name in self._templates}
        held: Row = {name: [first[name]] for name in self._read if _begins_like_messages(first.get(name))}
        ranked = list_in(first.get(self.config.responses_column))
        if ranked is not None:
            held[self.config.responses_column] = [[one] if _begins_like_messages(one) else one for one in ranked]
        return first | written | held

    def named(self, columns: Sequence[str]) -> list[str]:
        """Return columns with those that a template names in the place of the one that it writes."""
        written = {f"data.{name}": template.columns for name, template in self._templates.items()}
        return [own for column in columns for own in written.get(column, [column])]

    def cells(self, row: Row, where: str) -> Cells:
        """Return a row with its templates' texts, and with the messages or turns of texts that hold them.

        A cell that a template names and that is missing is empty, and counted; where all that it names say nothing, the
        text is empty too, whatever stands around them.

        Raises:
            InputError: A cell of a template is no text, or a text begins like messages and breaks off.
        """
        cells, found = dict(row), []
        for name, template in self._templates.items():
            texts = {column: _text(row.get(column), f"{where}, column {column}") for column in template.columns}
            says = not texts or any(text.strip() for text in texts.values())
            cells[f"data.{name}"] = template.written(texts) if says else ""
            found += [COUNTS[0]] * any(row.get(column) is None for column in template.columns)
        for column in (name for name in self._read if name in row):
            cells[column] = _turns(row[column], f"{where}, column {column}", found)
        responses = self.config.responses_column
        ranked = list_in(row.get(responses))
        if ranked is not None:
            cells[responses] = [_turns(one, f"{where}, column {responses}", found) for one in ranked]
        if is_dialogue(row.get(self.config.prompt_column)):
            self._continue(cells)
        return Cells(cells, tuple(dict.fromkeys(found)))

    def _continue(self, cells: Row) -> None:
        """Take the opened assistant turn off a dialogue that is a prompt: responses say it, without its blanks."""
        prompt = cells[self.config.prompt_column]
        if prompt[-1] != {"role": "assistant", "content": ""}:
            return
        prompt.pop()
        for key in ("chosen_column", "rejected_column", "completion_column", "responses_column"):
            column = getattr(self.config, key)
            if isinstance(cells.get(column), list):
                cells[column] = [_bare(one) for one in cells[column]]
            elif column in cells:
                cells[column] = _bare(cells[column])

    def notes(self, counts: Mapping[str, int], first: Mapping[str, str]) -> Iterator[str]:
        """Say which rows are read otherwise than a user may think."""
        missing, messages, dialogues = COUNTS
        if counts[missing]:
            yield f"{counts[missing]} rows lack a cell of a template, which is empty there, the first: {first[missing]}"
        if counts[messages]:
            what = "rows hold messages as JSON in a text, read as messages"
            yield f"{counts[messages]} {what}, the first: {first[messages]}"
        if counts[dialogues]:
            what = "rows hold turns of Human: and Assistant: in a text, read as messages"
            yield f"{counts[dialogues]} {what}, the first: {first[dialogues]}"


def _text(cell: object, place: str) -> str:
    """Return a template's cell as text; the digits of a whole number are those that stand in the file."""
    if cell is None:
        return ""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    if not isinstance(cell, str):
        raise InputError(place, _brief(cell), "text or a whole number, where a template names the column")
    if _begins_like_messages(cell):
        raise InputError(place, _brief(cell), "plain text, where a template names the column: these are messages")
    return cell


def _begins_like_messages(cell: object) -> bool:
    return isinstance(cell, str) and _BEGINS.match(cell) is not None


def messages_in(cell: object, place: str) -> list[Any] | None:
    """Return the messages that a text holds as JSON; None for other cells, and for text that goes on behind them.

    Raises:
        InputError: It begins like messages and cannot be read: cut off, or written by Python's `str`.
    """
    if not isinstance(cell, str) or not _begins_like_messages(cell):
        return None
    text = cell.strip()
    try:
        found, end = read_json_at(text)
    except json.JSONDecodeError as error:
        allowed = f"messages as JSON writes them, or text that does not begin like them ({error.msg})"
        raise InputError(place, _brief(cell), allowed) from error
    listed = found if isinstance(found, list) else [found]
    turns = all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in listed)
    return listed if turns and end == len(text) else None


def _turns(cell: object, place: str, found: list[str]) -> object:
    """Return a cell with the messages or the turns that its text holds; adds what it held to `found`, of COUNTS."""
    messages = messages_in(cell, place)
    if messages is not None:
        found.append(COUNTS[1])
        return messages
    if isinstance(cell, str) and is_dialogue(cell):
        found.append(COUNTS[2])
        return read_dialogue(cell, place)
    return cell


def _bare(cell: object) -> object:
    return cell.strip() if isinstance(cell, str) else cell


def list_in(cell: object) -> Sequence[Any] | None:
    """Return a cell as a list, also where it holds one as JSON, as CSV files do; None where it does not."""
    if isinstance(cell, str):
        try:
            cell = read_json(cell)
        except json.JSONDecodeError:
            return None
    return cell if isinstance(cell, (list, tuple)) else None


def _brief(cell: object) -> str:
    text = cell if isinstance(cell, str) else repr(cell)
    return text if len(text) <= 60 else f"{text[:60]}..."
