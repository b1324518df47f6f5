"""Rows to prompts and completions: read, checked, tokenized and cut to length; what happens to each is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from align.activity import Activity
from align.config import AssistantTurns, BadRows, DataConfig, PromptOverflow, Shape
from align.data.columns import Columns
from align.data.conversations import Message, is_empty, read_tools
from align.data.files import PlacedRow
from align.data.shapes import Example, read_example
from align.data.sources import Row
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Completion, Prompt

_AT_ONCE = 1000  # rows whose responses are tokenized in one call


class _TooLong(InputError):
    """A prompt that is too long in a well-formed row, to which `bad_rows` does not apply."""


class _Asked(NamedTuple):
    """A row that was read, before its responses are encoded."""

    prompt: Prompt
    example: Example
    earlier: tuple[tuple[Prompt, Message], ...]  # assistant's turns before the last one that are demonstrations too
    row: Row
    where: str

    @property
    def replies(self) -> list[tuple[Prompt, Message]]:
        """Every response with its prompt, the earlier turns last."""
        return [*((self.prompt, reply) for reply in self.example.replies), *self.earlier]


class Read(NamedTuple):
    """A row that was read; its prompt holds the first row with that prompt."""

    prompt: Prompt
    completions: tuple[Completion, ...]  # chosen and rejected; or ranked ones; or one; or none
    scores: tuple[float, ...]  # of ranked completions
    earlier: tuple[Completion, ...]
    row: Row
    where: str  # file and number, counted from 1
    source: str = ""  # of a mixture
    shape: Shape = Shape.preference


class Dropped(NamedTuple):
    """A row that was left out."""

    where: str
    row: Row


class Reader:
    """Turns rows into completions and counts what happens to them; prompts are numbered over everything it reads."""

    def __init__(self, config: DataConfig, chat: ChatTokenizer, activity: Activity, shape: Shape) -> None:
        self._chat, self._activity = chat, activity
        self.read_by(config, shape)
        self._numbers: dict[str, int] = {}  # by the rendered prompt, in order of appearance: limits do not change them
        self._prompts: dict[int, Prompt | None] = {}  # None: too long
        self.truncated: set[int] = set()  # prompts
        self.counts: Counter[str] = Counter()  # rows, and why some of them were dropped
        self.first_bad: InputError | None = None  # of the malformed rows that were dropped
        self.dropped: dict[str, list[Dropped]] = {}  # by count
        self._first: dict[str, str] = {}  # place of the first row of a count, and what it has

    def read_by(self, config: DataConfig, shape: Shape) -> None:
        """Read what follows as rows of this shape, by these columns; prompts stay numbered over everything."""
        self._shape = shape
        self._columns = Columns(config)
        self._config = self._columns.config

    def read(self, rows: Sequence[Row], source: str, name: str = "") -> list[Read]:
        """Read the rows of `source`, `name` in a mixture; those that are dropped are counted and left out."""
        read: list[Read | str] = []
        for at in range(0, len(rows), _AT_ONCE):
            self._activity.advance("rows tokenised", at, len(rows))
            read += self._block(rows[at : at + _AT_ONCE], source, at)
        self.counts["rows"] += len(rows)
        for number, (row, item) in enumerate(zip(rows, read, strict=True), start=1):
            if isinstance(item, str):
                self.drop(item, _place(row, source, number), row)
        return [item._replace(source=name, shape=self._shape) for item in read if isinstance(item, Read)]

    def drop(self, count: str, where: str, row: Row) -> None:
        """Count a row that is left out, and keep it to be shown."""
        self._lose(count, 1, row, where)

    def _lose(self, count: str, n: int, row: Row, where: str) -> None:
        """Count what is left out of a row, a turn or all of it, and keep the row to be shown."""
        if not n:
            return
        self.counts[count] += n
        kept = self.dropped.setdefault(count, [])
        if not kept or kept[-1].where != where:
            kept.append(Dropped(where, row))

    def _block(self, rows: Sequence[Row], source: str, before: int) -> list[Read | str]:
        """Return what is read of each row, or the count under which the row is dropped."""
        items = [self._asked(row, _place(row, source, number)) for number, row in enumerate(rows, start=before + 1)]
        given = [reply for item in items if not isinstance(item, str) for reply in item.replies]
        encoded = iter(
            self._chat.encode_replies(
                [prompt.messages for prompt, _ in given],
                [reply for _, reply in given],
                [prompt.tools for prompt, _ in given],
            )
        )
        return [
            item if isinstance(item, str) else self._made(item, list(islice(encoded, len(item.replies))))
            for item in items
        ]

    def _asked(self, row: Row, where: str) -> _Asked | str:
        """Return a row's prompts and responses, or the count under which the row is dropped."""
        try:
            cells, found = self._columns.cells(row, where)
            for name in found:
                self._count(name, True, where)
            example = read_example(cells, self._shape, self._config, where)
            if example is None:
                return "diverging_dropped"
            tools = read_tools(row, self._config, where)
            prompt = self._prompt(example.messages, tools, row, where, example.conversation)
            turns = self._turns(example, row, where)
            if prompt is None:
                self._lose("turns_of_dropped_rows", len(turns), row, where)
                return "long_prompts_dropped"
            self._check_written(example, where)
            return _Asked(prompt, example, self._earlier(example, turns, tools, row, where), row, where)
        except _TooLong:
            raise
        except InputError as error:
            return self._malformed(error)

    def _turns(self, example: Example, row: Row, where: str) -> list[int]:
        """Return the places of the assistant's turns before the last one that answer; counts those that do not."""
        if self._shape is not Shape.demonstration or self._config.turns is AssistantTurns.last:
            return []
        why = {i: _no_answer(example.messages, i) for i, m in enumerate(example.messages) if m["role"] == "assistant"}
        for reason in filter(None, why.values()):
            self._lose(reason, 1, row, where)
        return [i for i, reason in why.items() if reason is None]

    def _earlier(
        self, example: Example, turns: Sequence[int], tools: tuple[Any, ...] | None, row: Row, where: str
    ) -> tuple[tuple[Prompt, Message], ...]:
        """Return the answers at these places, each with the turns before it as its prompt."""
        found = [(self._prompt(example.messages[:i], tools, row, where, True), example.messages[i]) for i in turns]
        self._lose("turns_of_long_prompts", sum(prompt is None for prompt, _ in found), row, where)
        return tuple((prompt, turn) for prompt, turn in found if prompt is not None)

    def _malformed(self, error: InputError) -> str:
        """Raise what is wrong with a row, or note it and return the count under which the row is dropped."""
        if self._config.bad_rows is BadRows.error:
            raise error
        self.first_bad = self.first_bad or error
        return "malformed_dropped"

    def _check_written(self, example: Example, where: str) -> None:
        """Count what the template leaves out of a row; InputError where that is something said, or a call of a tool."""
        whole = [[*example.messages, reply] for reply in example.replies] or [[*example.messages]]
        left_out = {(turn, key) for messages in whole for turn, key in self._chat.unwritten(messages)}
        for turn, key in sorted(left_out):
            if key in ("content", "tool_calls"):
                role = whole[0][turn]["role"]
                raise InputError(
                    where, f"{key} of a turn of {role!r}", "what the chat template writes (it leaves this out)"
                )
        keys = ", ".join(sorted({key for _, key in left_out}))
        self._count("keys_unwritten", bool(left_out), f"{where} ({keys})")
        self._count("control_tokens_named", any(map(self._chat.names_control_tokens, whole)), where)

    def _count(self, name: str, found: bool, place: str) -> None:
        self.counts[name] += found
        if found:
            self._first.setdefault(name, place)

    def notes(self) -> Iterator[str]:
        """Say which rows are read otherwise than a user may think."""
        named, unwritten = (self.counts[name] for name in ("control_tokens_named", "keys_unwritten"))
        if named:
            key, first = (
                f"model.control_tokens_in_text={self._chat.reads_names_as}",
                self._first["control_tokens_named"],
            )
            yield f"{named} rows spell control tokens in their texts ({key}), the first: {first}"
        if unwritten:
            first = self._first["keys_unwritten"]
            yield f"the chat template leaves keys of the messages of {unwritten} rows out, the first: {first}"
        yield from self._columns.notes(self.counts, self._first)

    def _made(self, asked: _Asked, encoded: Sequence[list[int] | InputError]) -> Read | str:
        """Return what a row gives with its responses encoded, or the count under which the row is dropped."""
        made = []
        for (prompt, reply), ids in zip(asked.replies, encoded, strict=True):
            if isinstance(ids, InputError):
                return self._malformed(InputError(asked.where, ids.given, ids.allowed))
            made.append(self._completion(prompt, reply, ids, asked.example.label))
        if any(map(is_empty, asked.example.replies)):
            self._lose("turns_of_dropped_rows", len(asked.earlier), asked.row, asked.where)
            return "empty_dropped"
        n = len(asked.example.replies)
        if self._shape is Shape.preference and made[0].ids == made[1].ids:
            return "identical_dropped"
        return Read(asked.prompt, tuple(made[:n]), asked.example.scores, tuple(made[n:]), asked.row, asked.where)

    def _prompt(
        self, messages: tuple[Message, ...], tools: tuple[Any, ...] | None, row: Row, where: str, conversation: bool
    ) -> Prompt | None:
        """Return the prompt of these messages, the first one read of several; None where it is too long."""
        try:
            number = self._numbers.setdefault(self._chat.render_prompt(messages, tools), len(self._numbers))
            if number not in self._prompts:
                self._prompts[number] = self._new_prompt(number, messages, tools, row, where, conversation)
        except _TooLong:
            raise
        except InputError as error:
            raise InputError(where, error.given, error.allowed) from error
        return self._prompts[number]

    def _new_prompt(
        self,
        number: int,
        messages: tuple[Message, ...],
        tools: tuple[Any, ...] | None,
        row: Row,
        where: str,
        conversation: bool,
    ) -> Prompt | None:
        ids = self._chat.encode_prompt(messages, tools)
        limit = self._config.prompt_tokens
        if len(ids) > limit:
            if self._config.long_prompts is PromptOverflow.error:
                raise _TooLong(where, f"a prompt of {len(ids)} tokens", f"at most data.max_prompt_tokens={limit}")
            if self._config.long_prompts is PromptOverflow.drop:
                return None
            self.truncated.add(number)
            ids = ids[-limit:]
        users = [m["content"] for m in messages if m["role"] == "user"]
        text = users[-1] if users else messages[-1]["content"]
        return Prompt(number, messages, text, tuple(ids), row, tools, conversation)

    def _completion(self, prompt: Prompt, reply: Message, ids: list[int], label: bool) -> Completion:
        """Cut a response to the limit; its text is its content where that is all of it."""
        cut = ids[: self._config.response_tokens]
        whole = cut == ids and not reply.get("tool_calls")
        return Completion(prompt, reply["content"] if whole else self._chat.decode(cut), tuple(cut), label)


def _place(row: Row, source: str, number: int) -> str:
    return row.place if isinstance(row, PlacedRow) else f"{source}, row {number}"


def _no_answer(messages: Sequence[Message], place: int) -> str | None:
    """Return the count of an assistant's turn that is no demonstration; None where it answers what stands before it."""
    before = messages[place - 1]["role"] if place else None
    if before not in ("user", "tool"):
        return "turns_after_assistant" if before == "assistant" else "turns_without_prompt"
    return "empty_turns" if is_empty(messages[place]) else None


def content_of(messages: Sequence[Message], tools: Sequence[Any] | None) -> str:
    """Write what tells a prompt from others; a prompt of plain turns is known by their roles and contents."""
    turns: list[Any] = [[m["role"], m["content"], *_others(m)] for m in messages]
    return json.dumps([*turns, *([{"tools": tools}] if tools else [])], ensure_ascii=False)


def _others(message: Message) -> list[Any]:
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    return [others] if others else []
