"""Rows to pairs: read, checked, tokenized and cut to length, with a count of what happens to each row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from align.activity import Activity
from align.config import BadRows, DataConfig, PromptOverflow
from align.data.columns import Columns
from align.data.conversations import Example, Message, is_conversation, is_empty, read_example, read_tools
from align.data.sources import Row
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Pair, Prompt

_AT_ONCE = 1000  # rows whose responses are tokenized in one call
_Response = tuple[str, tuple[int, ...]]  # text and ids, both cut to the limit


class _TooLong(InputError):
    """A prompt that is too long in a well-formed row, to which `bad_rows` does not apply."""


class _Asked(NamedTuple):
    """A row that was read, before its responses are encoded."""

    prompt: Prompt
    example: Example
    where: str


class Read(NamedTuple):
    pair: Pair
    row: Row  # of the pair; its prompt holds the first row with that prompt
    source: str = ""  # of a mixture


class Reader:
    """Turns rows into pairs and counts what happens to them; prompts are numbered over everything it reads."""

    def __init__(self, config: DataConfig, chat: ChatTokenizer, activity: Activity) -> None:
        self._chat, self._activity = chat, activity
        self.read_by(config)
        self._numbers: dict[str, int] = {}  # by content, in order of appearance: limits do not change them
        self._prompts: dict[int, Prompt | None] = {}  # None: too long
        self.truncated: set[int] = set()  # prompts
        self.counts: Counter[str] = Counter()  # rows, and why some of them were dropped
        self.first_bad: InputError | None = None  # of the malformed rows that were dropped
        self._first: dict[str, str] = {}  # place of the first row of a count, and what it has

    def read_by(self, config: DataConfig) -> None:
        """Read what follows by these columns and templates; prompts stay numbered over everything."""
        self._columns = Columns(config)
        self._config = self._columns.config

    def pairs(self, rows: Sequence[Row], source: str) -> list[Read]:
        self._check_columns(rows[0], source)
        read: list[Pair | str] = []
        for at in range(0, len(rows), _AT_ONCE):
            self._activity.advance("rows tokenised", at, len(rows))
            read += self._block(rows[at : at + _AT_ONCE], source, at)
        self.counts["rows"] += len(rows)
        self.counts.update(item for item in read if isinstance(item, str))
        return [Read(item, row) for item, row in zip(read, rows, strict=True) if isinstance(item, Pair)]

    def _check_columns(self, row: Row, source: str) -> None:
        config, read = self._config, self._columns.checked(row, source)
        needed = ["chosen_column", "rejected_column", *(["system_column"] if config.system_column is not None else [])]
        whole = is_conversation(read.get(config.chosen_column)) and is_conversation(read.get(config.rejected_column))
        if not whole or config.prompt_column != DataConfig.prompt_column:  # a configured column must exist
            needed.append("prompt_column")
        for name in needed:
            column = getattr(config, name)
            if column not in read:
                raise InputError(f"data.{name}", column, f"a column of {source}: {', '.join(row)}")

    def _block(self, rows: Sequence[Row], source: str, before: int) -> list[Pair | str]:
        """Return the pair of each row, or the count under which the row is dropped."""
        items = [self._asked(row, f"{source}, row {number}") for number, row in enumerate(rows, start=before + 1)]
        asked = [item for item in items if not isinstance(item, str)]
        encoded = iter(
            self._chat.encode_replies(
                [example.messages for _, example, _ in asked for _ in range(2)],
                [reply for _, example, _ in asked for reply in (example.chosen, example.rejected)],
                [prompt.tools for prompt, _, _ in asked for _ in range(2)],
            )
        )
        return [item if isinstance(item, str) else self._pair(item, next(encoded), next(encoded)) for item in items]

    def _asked(self, row: Row, where: str) -> _Asked | str:
        """Return a row's prompt and responses, or the count under which the row is dropped."""
        try:
            cells, found = self._columns.cells(row, where)
            for name in found:
                self._count(name, True, where)
            example = read_example(cells, self._config, where)
            if example is None:
                return "diverging_dropped"
            tools = read_tools(row, self._config, where)
            number = self._numbers.setdefault(content_of(example.messages, tools), len(self._numbers))
            if number not in self._prompts:
                self._prompts[number] = self._prompt(number, example.messages, tools, row, where)
            prompt = self._prompts[number]
            if prompt is None:
                return "long_prompts_dropped"
            self._check_written(example, where)
            return _Asked(prompt, example, where)
        except _TooLong:
            raise
        except InputError as error:
            return self._malformed(error)

    def _malformed(self, error: InputError) -> str:
        """Raise what is wrong with a row, or note it and return the count under which the row is dropped."""
        if self._config.bad_rows is BadRows.error:
            raise error
        self.first_bad = self.first_bad or error
        return "malformed_dropped"

    def _check_written(self, example: Example, where: str) -> None:
        """Count what the template leaves out of a row; InputError where that is something said, or a call of a tool."""
        whole = [[*example.messages, reply] for reply in (example.chosen, example.rejected)]
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

    def _pair(self, asked: _Asked, first: list[int] | InputError, second: list[int] | InputError) -> Pair | str:
        for ids in (first, second):
            if isinstance(ids, InputError):
                return self._malformed(InputError(asked.where, ids.given, ids.allowed))
        assert isinstance(first, list) and isinstance(second, list)
        example = asked.example
        chosen, chosen_ids = self._response(example.chosen, first)
        rejected, rejected_ids = self._response(example.rejected, second)
        if is_empty(example.chosen) or is_empty(example.rejected):
            return "empty_dropped"
        if chosen_ids == rejected_ids:
            return "identical_dropped"
        return Pair(asked.prompt, chosen, rejected, chosen_ids, rejected_ids)

    def _prompt(
        self, number: int, messages: tuple[Message, ...], tools: tuple[Any, ...] | None, row: Row, where: str
    ) -> Prompt | None:
        try:
            ids = self._chat.encode_prompt(messages, tools)
        except InputError as error:
            raise InputError(where, error.given, error.allowed) from error
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
        return Prompt(id=number, messages=messages, text=text, input_ids=tuple(ids), row=row, tools=tools)

    def _response(self, reply: Message, ids: list[int]) -> _Response:
        """Cut a response to the limit; its text is its content where that is all of it."""
        cut = ids[: self._config.response_tokens]
        whole = cut == ids and not reply.get("tool_calls")
        return reply["content"] if whole else self._chat.decode(cut), tuple(cut)


def content_of(messages: Sequence[Message], tools: Sequence[Any] | None) -> str:
    """Write what tells a prompt from others; a prompt of plain turns is known by their roles and contents."""
    turns: list[Any] = [[m["role"], m["content"], *_others(m)] for m in messages]
    return json.dumps([*turns, *([{"tools": tools}] if tools else [])], ensure_ascii=False)


def _others(message: Message) -> list[Any]:
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    return [others] if others else []
