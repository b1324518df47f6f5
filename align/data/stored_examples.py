"""Prompts and completions in Arrow tables, and views of them that read texts and tokens where they lie.

A view costs tens of bytes, so that 200,000 pairs of any length are held as lists of objects like those of a few.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pyarrow
from pyarrow import compute

from align.data.arrow import Store
from align.data.files import Row
from align.data.stored_rows import place_of
from align.types import FINGERPRINT_BYTES, Completion, Pair, Prompt, asked, fingerprint_of

_PROMPT, _COMPLETION = "prompts", "completions"  # tables
_IDS, _HASH = pyarrow.list_(pyarrow.int32()), pyarrow.binary(FINGERPRINT_BYTES)
_PROMPTS = pyarrow.schema(
    [
        ("id", pyarrow.int64()),
        ("messages", pyarrow.large_binary()),  # JSON
        ("input_ids", _IDS),
        ("tools", pyarrow.large_binary()),  # JSON, or null
        ("conversation", pyarrow.bool_()),
        ("source", pyarrow.int32()),  # which rows
        ("row", pyarrow.int64()),  # place in them
        ("fingerprint", _HASH),
        ("row_fingerprint", _HASH),
    ]
)
_COMPLETIONS = pyarrow.schema(
    [
        ("prompt", pyarrow.int64()),
        ("text", pyarrow.large_binary()),  # UTF-8, lone surrogates too
        ("ids", _IDS),
        ("label", pyarrow.bool_()),
        ("source", pyarrow.int32()),
        ("row", pyarrow.int64()),
        ("fingerprint", _HASH),
    ]
)


class StoredExamples:
    """Prompts and completions of one data set."""

    def __init__(self, store: Store, rows: Sequence[Sequence[Row]] = ()) -> None:
        self._store = store
        self.rows = list(rows)  # that prompts are from

    def open(self) -> StoredExamples:
        """Read what the store holds."""
        prompts, completions = self._store.table(_PROMPT), self._store.table(_COMPLETION)
        self._prompts = {name: prompts.column(name) for name in prompts.schema.names}
        self._completions = {name: completions.column(name) for name in completions.schema.names}
        self.prompt_ids: numpy.ndarray = self._prompts["id"].to_numpy()
        self.prompt_places: numpy.ndarray = self._completions["prompt"].to_numpy()  # by completion
        self.prompt_tokens: numpy.ndarray = compute.list_value_length(self._prompts["input_ids"]).to_numpy()
        self.tokens: numpy.ndarray = compute.list_value_length(self._completions["ids"]).to_numpy()  # by completion
        return self

    def prompt(self, name: str, place: int) -> Any:
        """Return a cell of a prompt."""
        return self._prompts[name][place].as_py()

    def completion(self, name: str, place: int) -> Any:
        """Return a cell of a completion."""
        return self._completions[name][place].as_py()


class ExamplesWriter:
    """Writes the prompts and completions of one data set, which can be read once `end` was called."""

    def __init__(self, store: Store) -> None:
        self.examples = StoredExamples(store)
        self._prompts = store.writer(_PROMPT, _PROMPTS)
        self._completions = store.writer(_COMPLETION, _COMPLETIONS)

    def add_rows(self, rows: Sequence[Row]) -> int:
        """Add rows whose prompts follow; returns their number."""
        self.examples.rows.append(rows)
        return len(self.examples.rows) - 1

    def add_prompt(
        self,
        number: int,
        messages: Sequence[Mapping[str, Any]],
        input_ids: Sequence[int],
        tools: Sequence[Any] | None,
        conversation: bool,
        place: tuple[int, int],
        row: Row,
    ) -> StoredPrompt:
        """Write a prompt of a row, whose `place` is the number of its rows and the place in them.

        Raises TypeError for content that JSON does not have.
        """
        held = None if tools is None else json.dumps(tools).encode()
        content = json.dumps(list(messages)).encode()
        hashes = fingerprint_of([messages, tools]), fingerprint_of(row)
        at = self._prompts.add(number, content, input_ids, held, conversation, *place, *hashes)
        return StoredPrompt(self.examples, at)

    def add_completion(
        self, prompt: StoredPrompt, text: str, ids: Sequence[int], label: bool, place: tuple[int, int]
    ) -> StoredCompletion:
        """Write a completion of a row, whose `place` is the number of its rows and the place in them."""
        content = text.encode("utf-8", "surrogatepass")
        at = self._completions.add(prompt.place, content, ids, label, *place, fingerprint_of(text))
        return StoredCompletion(self.examples, at)

    def end(self) -> None:
        """Stop writing; what was written can be read from here on."""
        self._prompts.close()
        self._completions.close()
        self.examples.open()


class _Stored:
    """A view of a row of a table of examples."""

    _examples: StoredExamples
    place: int  # in the table
    __slots__ = ("_examples", "place")

    def __init__(self, examples: StoredExamples, place: int) -> None:
        object.__setattr__(self, "_examples", examples)  # prompts and completions are frozen
        object.__setattr__(self, "place", place)

    @abstractmethod
    def _cell(self, name: str) -> Any:
        """Return the cell of a column."""

    @property
    def _rows(self) -> Sequence[Row]:
        return self._examples.rows[self._cell("source")]

    @property
    def row(self) -> Row:
        """Return the data row that the view is of, a prompt the first one."""
        return self._rows[self._cell("row")]

    @property
    def where(self) -> str:
        """Name that row by its file and its number there."""
        return place_of(self._rows, self._cell("row"))

    @property
    def fingerprint(self) -> bytes:
        return bytes(self._cell("fingerprint"))


class StoredPrompt(_Stored, Prompt):
    """A prompt of a store."""

    def _cell(self, name: str) -> Any:
        return self._examples.prompt(name, self.place)

    @property
    def id(self) -> int:
        return int(self._examples.prompt_ids[self.place])

    @property
    def messages(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(json.loads(self._cell("messages")))

    @property
    def text(self) -> str:
        return asked(self.messages)

    @property
    def input_ids(self) -> tuple[int, ...]:
        return tuple(self._cell("input_ids"))

    @property
    def tokens(self) -> int:
        return int(self._examples.prompt_tokens[self.place])

    @property
    def tools(self) -> tuple[Any, ...] | None:
        held = self._cell("tools")
        return None if held is None else tuple(json.loads(held))

    @property
    def conversation(self) -> bool:
        return bool(self._cell("conversation"))

    @property
    def row_fingerprint(self) -> bytes:
        return bytes(self._cell("row_fingerprint"))

    def loaded(self) -> Prompt:
        return Prompt(self.id, self.messages, self.text, self.input_ids, self.row, self.tools, self.conversation)


class StoredCompletion(_Stored, Completion):
    """A completion of a store."""

    def _cell(self, name: str) -> Any:
        return self._examples.completion(name, self.place)

    @property
    def prompt(self) -> StoredPrompt:
        return StoredPrompt(self._examples, int(self._examples.prompt_places[self.place]))

    @property
    def text(self) -> str:
        return str(self._cell("text").decode("utf-8", "surrogatepass"))

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self._cell("ids"))

    @property
    def tokens(self) -> int:
        return int(self._examples.tokens[self.place])

    @property
    def label(self) -> bool:
        return bool(self._cell("label"))


class StoredPair(Pair):
    """A pair of completions of a store."""

    _chosen: StoredCompletion
    _rejected: StoredCompletion
    __slots__ = ("_chosen", "_rejected")

    def __init__(self, chosen: StoredCompletion, rejected: StoredCompletion) -> None:
        object.__setattr__(self, "_chosen", chosen)
        object.__setattr__(self, "_rejected", rejected)

    @property
    def prompt(self) -> StoredPrompt:
        return self._chosen.prompt

    @property
    def chosen(self) -> str:
        return self._chosen.text

    @property
    def rejected(self) -> str:
        return self._rejected.text

    @property
    def chosen_ids(self) -> tuple[int, ...]:
        return self._chosen.ids

    @property
    def rejected_ids(self) -> tuple[int, ...]:
        return self._rejected.ids

    @property
    def fingerprint(self) -> bytes:
        return self._chosen.fingerprint + self._rejected.fingerprint

    def tokens(self, side: str) -> int:
        return (self._chosen if side == "chosen_ids" else self._rejected).tokens

    @property
    def completions(self) -> tuple[StoredCompletion, StoredCompletion]:
        """Return chosen and rejected."""
        return self._chosen, self._rejected

    def loaded(self) -> Pair:
        return Pair(self.prompt, self.chosen, self.rejected, self.chosen_ids, self.rejected_ids)
