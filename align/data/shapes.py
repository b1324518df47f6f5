"""Shapes of data rows: recognised from the columns, checked, and read as a prompt with the responses beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import permutations
from typing import Any

from align.config import DataConfig, Shape
from align.data.columns import list_in
from align.data.conversations import (
    Message,
    brief,
    is_conversation,
    join_prompt,
    read_cell,
    split_reply,
    system_turn,
)
from align.errors import InputError

_LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_COLUMNS = tuple(f.name for f in fields(DataConfig) if f.name.endswith("_column") and f.name != "tools_column")
_OTHERS = (Shape.ranked, Shape.unpaired_preference, Shape.demonstration)  # in the order in which they are recognised


@dataclass(frozen=True)
class Example:
    """A prompt with the responses that its row gives."""

    messages: tuple[Message, ...]  # the prompt, a user's or a tool's turn last
    replies: tuple[Message, ...] = ()  # chosen and rejected; or ranked ones; or a completion; or none
    scores: tuple[float, ...] = ()  # of ranked replies, the highest best
    label: bool = True  # whether a completion is desirable
    conversation: bool = True  # the prompt is turns in the data, not a string that is one user message


def recognise(row: Mapping[str, Any], config: DataConfig, source: str) -> Shape:
    """Return the shape that `data.shape` names, or the first one whose columns a row has.

    Raises:
        InputError: No shape has these columns, two have parts of them, or the named one lacks some; it names `source`.
    """
    shape = config.shape if config.shape is not Shape.auto else _found(row, config, source)
    for name in _missing(shape, row, config):
        allowed = f"a column of {source}: {_listed(row)}"
        if shape is not Shape.preference:
            allowed += f" (rows of shape {shape.value})"
        raise InputError(f"data.{name}", getattr(config, name), allowed)
    return shape


def _found(row: Mapping[str, Any], config: DataConfig, source: str) -> Shape:
    sides = [config.chosen_column in row, config.rejected_column in row]
    others = [shape for shape in _OTHERS if not set(_own(shape, row, config)) - _named(row, config)]
    if all(sides):
        return Shape.preference
    if any(sides) and others:
        there = config.chosen_column if sides[0] else config.rejected_column
        names = ", ".join(shape.value for shape in (Shape.preference, *others))
        raise InputError(
            "data.shape", "auto", f"{names}: {source} has {there!r} alone of a pair, and columns of others"
        )
    if others or any(sides):
        return Shape.preference if any(sides) else others[0]
    if config.prompt_column in row:
        return Shape.prompt_only
    others_of = "data.completion_column, data.messages_column, data.responses_column"
    allowed = f"a column of {source}: {_listed(row)}; or one of another shape ({others_of}, data.prompt_column)"
    raise InputError("data.chosen_column", config.chosen_column, allowed)


def _listed(row: Mapping[str, Any]) -> str:
    """List a row's columns without those that templates write."""
    written = {f"data.{name.removesuffix('_column')}" for name in _COLUMNS}
    return ", ".join(name for name in row if name not in written)


def _named(row: Mapping[str, Any], config: DataConfig) -> set[str]:
    """Return the keys of the columns that a row has."""
    return {name for name in _COLUMNS if getattr(config, name) in row}


def _own(shape: Shape, row: Mapping[str, Any], config: DataConfig) -> list[str]:
    """Return the keys of the columns that tell a shape's responses."""
    whole = "messages_column" if config.messages_column in row else "completion_column"
    match shape:
        case Shape.preference:
            return ["chosen_column", "rejected_column"]
        case Shape.ranked:
            return ["responses_column"]
        case Shape.unpaired_preference:
            return [whole, "label_column"]
        case Shape.demonstration:
            return [whole]
        case _:
            return []


def _read(shape: Shape, row: Mapping[str, Any], config: DataConfig) -> list[str]:
    """Return the keys of the columns that are read of rows of a shape, also of one that is missing."""
    own, there = _own(shape, row, config), _named(row, config)
    if "messages_column" in own:
        prompt = []
    else:
        cells = [row.get(getattr(config, name)) for name in own if name != "label_column"]
        if shape is Shape.ranked and isinstance(cells[0], (list, tuple)):
            cells = list(cells[0])
        whole = bool(cells) and all(map(is_conversation, cells))
        prompt = [] if whole and "prompt_column" not in there else ["prompt_column"]
    ordered = [name for name in ("scores_column", "ranks_column") if shape is Shape.ranked and name in there]
    system = [] if config.system_column is None else ["system_column"]
    return [*prompt, *own, *ordered[:1], *system]


def _missing(shape: Shape, row: Mapping[str, Any], config: DataConfig) -> Iterator[str]:
    """Yield the keys of columns that a row lacks: those that are read, and every one that is not the default's."""
    defaults = {f.name: f.default for f in fields(DataConfig)}
    given = [name for name in _COLUMNS if getattr(config, name) not in (None, defaults[name])]
    there = _named(row, config)
    yield from (name for name in (*_read(shape, row, config), *given) if name not in there)


def columns_of(shape: Shape, row: Mapping[str, Any], config: DataConfig) -> list[str]:
    """Return the columns that are read of rows of a shape."""
    return [getattr(config, name) for name in _read(shape, row, config)]


def read_example(row: Mapping[str, Any], shape: Shape, config: DataConfig, where: str) -> Example | None:
    """Read the prompt and the responses of a row from the columns that `config` names.

    A string prompt is one user message. Responses may be strings, single assistant messages, or whole conversations.
    Whole conversations share the prompt, so that the prompt column may be missing (`implicit prompt`); None where they
    differ before their last message. A system column's text, where there is any, goes first.

    Raises:
        InputError: An empty cell, a cell of a wrong type, or a conversation that does not end as it must; it names the
            row by `where`.
    """
    match shape:
        case Shape.ranked:
            example = _ranked(row, config, where)
        case Shape.unpaired_preference | Shape.demonstration:
            example = _completion(row, shape, config, where)
        case Shape.prompt_only:
            example = _joined([], [], _explicit(row, config, where), f"{where}, column {config.prompt_column}")
        case _:
            example = _preference(row, config, where)
    if example is None or config.system_column is None:
        return example
    place = f"{where}, column {config.system_column}"
    system = system_turn(row[config.system_column], example.messages, place)
    return replace(example, messages=(*system, *example.messages))


def _explicit(row: Mapping[str, Any], config: DataConfig, where: str) -> str | list[Message] | None:
    name = config.prompt_column
    return read_cell(row[name], f"{where}, column {name}") if name in row else None


def _preference(row: Mapping[str, Any], config: DataConfig, where: str) -> Example | None:
    places = [f"{where}, column {name}" for name in (config.chosen_column, config.rejected_column)]
    cells = [read_cell(row[config.chosen_column], places[0]), read_cell(row[config.rejected_column], places[1])]
    explicit = _explicit(row, config, where)
    return _joined(cells, places, explicit, f"{where}, column {config.prompt_column}")


def _joined(
    cells: Sequence[str | list[Message]], places: Sequence[str], explicit: str | list[Message] | None, prompt: str
) -> Example | None:
    """Join a prompt and its responses; None where responses with turns before them differ in these.

    Raises:
        InputError: Without a prompt, a response is a text that holds none either.
    """
    for cell, place in zip(cells, places, strict=True):
        if explicit is None and isinstance(cell, str):
            allowed = "a prompt column, message lists, or text in Human:/Assistant: turns"
            raise InputError(place, brief(cell), allowed)
    split = [split_reply(cell, place) for cell, place in zip(cells, places, strict=True)]
    heads = [head for head, _ in split if head]
    if any(head != heads[0] for head in heads):
        return None
    messages = join_prompt(explicit, heads[0] if heads else (), prompt)
    return Example(messages, tuple(reply for _, reply in split), conversation=not isinstance(explicit, str))


def _completion(row: Mapping[str, Any], shape: Shape, config: DataConfig, where: str) -> Example | None:
    name, explicit = config.messages_column, None
    if name not in row:
        name, explicit = config.completion_column, _explicit(row, config, where)
    place = f"{where}, column {name}"
    cell = read_cell(row[name], place)
    prompt = place if explicit is None else f"{where}, column {config.prompt_column}"
    example = _joined([cell], [place], explicit, prompt)
    if example is None or shape is Shape.demonstration:
        return example
    label = _label(row[config.label_column], f"{where}, column {config.label_column}")
    return replace(example, label=label)


def _label(cell: object, place: str) -> bool:
    found = _LABELS.get(str(cell).strip().lower()) if isinstance(cell, (bool, int, float, str)) else None
    if found is None:
        raise InputError(place, brief(cell), "true or false, 1 or 0 (data.shape=demonstration reads no label)")
    return found


def _ranked(row: Mapping[str, Any], config: DataConfig, where: str) -> Example | None:
    place = f"{where}, column {config.responses_column}"
    given = list_in(row[config.responses_column])
    if given is None or len(given) < 2:
        raise InputError(place, brief(row[config.responses_column]), "a list of two responses or more")
    cells = [read_cell(value, place) for value in given]
    explicit = _explicit(row, config, where)
    example = _joined(cells, [place] * len(cells), explicit, f"{where}, column {config.prompt_column}")
    return example and replace(example, scores=_scores(row, config, where, len(cells)))


def _scores(row: Mapping[str, Any], config: DataConfig, where: str, n: int) -> tuple[float, ...]:
    """Return a score for each of `n` responses, the highest best; without a column for it they are in order.

    Raises:
        InputError: A cell is none, or scores and ranks order the responses differently.
    """
    there = [one for one in ((config.scores_column, 1.0), (config.ranks_column, -1.0)) if one[0] in row]
    found = []
    for name, sign in [one for one in there if row[one[0]] is not None] or there[:1]:
        given = list_in(row[name])
        if given is None or len(given) != n or not all(_is_number(value) for value in given):
            raise InputError(f"{where}, column {name}", brief(row[name]), f"a number for each of {n} responses")
        found.append(tuple(sign * value for value in given))
    if len(found) > 1 and any((a > b) != (c > d) for (a, c), (b, d) in permutations(zip(*found, strict=True), 2)):
        columns = f"columns {config.scores_column} and {config.ranks_column}"
        raise InputError(f"{where}, {columns}", "other orders", "one order: the highest score has the lowest rank")
    return found[0] if found else tuple(float(n - i) for i in range(n))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
