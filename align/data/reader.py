"""Rows to prompts and completions: read, checked, tokenized and cut to length; what happens to each is counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, NamedTuple

from align.activity import Activity
from align.config import AssistantTurns, BadRows, DataConfig, PromptOverflow, Shape
from align.data import omissions, unread
from align.data.columns import Columns
from align.data.conversations import Message, calls, is_empty, read_tools
from align.data.files import Row
from align.data.lazy_rows import AT_ONCE
from align.data.omissions import Compared, omissions_of
from align.data.read import Place, Read
from align.data.shapes import Example, read_example
from align.data.stored_examples import ExamplesWriter, StoredCompletion, StoredPrompt
from align.errors import InputError
from align.libraries import reason
from align.models.chat_tokenizer import ChatTokenizer, Reply


class _TooLong(InputError):
    """A prompt that is too long in a well-formed row, to which `bad_rows` does not apply."""


class _Given(NamedTuple):
    """A row with its place."""

    row: Row
    where: str
    place: Place


class _Asked(NamedTuple):
    """A row that was read, before its responses are encoded."""

    prompt: StoredPrompt
    example: Example
    tools: tuple[Any, ...] | None
    earlier: tuple[tuple[StoredPrompt, int], ...]  # places of assistant's turns that are demonstrations too
    given: _Given

    @property
    def replies(self) -> list[tuple[StoredPrompt, tuple[Message, ...], Message]]:
        """Every response with its prompt and the prompt's messages, the earlier turns last."""
        messages = self.example.messages
        own = [(self.prompt, messages, reply) for reply in self.example.replies]
        return own + [(prompt, messages[:at], messages[at]) for prompt, at in self.earlier]


class _Made(NamedTuple):
    """What is read of a row."""

    prompt: StoredPrompt
    completions: tuple[StoredCompletion, ...]
    scores: tuple[float, ...]
    earlier: tuple[StoredCompletion, ...]


class Reader:
    """Turns rows into completions and counts what happens to them; prompts are numbered over everything it reads."""

    def __init__(
        self, config: DataConfig, chat: ChatTokenizer, activity: Activity, shape: Shape, writer: ExamplesWriter
    ) -> None:
        self._chat, self._activity, self._writer = chat, activity, writer
        self.read_by(config, shape)
        self._numbers: dict[bytes, int] = {}  # by the rendered prompt's hash, in their order: limits do not change them
        self._prompts: dict[int, StoredPrompt | None] = {}  # None: too long
        self.truncated: set[int] = set()  # prompts
        self.counts: Counter[str] = Counter()  # rows, and why some of them were dropped
        self.first_bad: InputError | None = None  # of the malformed rows that were dropped
        self.dropped: dict[str, list[Place]] = {}  # by count
        self._first: dict[str, str] = {}  # place of the first row of a count, and what it has

    def read_by(self, config: DataConfig, shape: Shape) -> None:
        """Read what follows as rows of this shape, by these columns; prompts stay numbered over everything."""
        self._shape = shape
        self._columns = Columns(config)
        self._config = self._columns.config
        every = [getattr(self._config, field.name) for field in fields(DataConfig) if field.name.endswith("_column")]
        self._used = frozenset(self._columns.named(every))

    def read(self, rows: Sequence[Row], origin: str, name: str = "") -> list[Read]:
        """Read the rows of `origin`, `name` in a mixture; those that are dropped are counted and left out."""
        read, number = list[Read](), self._writer.add_rows(rows)
        for at in range(0, len(rows), AT_ONCE):
            self._activity.advance("rows tokenised", at, len(rows))
            places = [Place(rows, i, number, origin) for i in range(at, min(at + AT_ONCE, len(rows)))]
            for own, item in zip(places, self._block(rows[at : at + AT_ONCE], places), strict=True):
                if isinstance(item, str):
                    self.lose(item, own)
                elif isinstance(item, InputError):
                    self.lose("malformed_dropped", own._replace(why=_why(item, own.where)))
                else:
                    read.append(Read(*item, own, name, self._shape))
        self.counts["rows"] += len(rows)
        return read

    def lose(self, count: str, place: Place, n: int = 1) -> None:
        """Count what is left out of a row, all of it or `n` turns, and keep the place of the row to be shown."""
        if not n:
            return
        self.counts[count] += n
        known = self.dropped.setdefault(count, [])
        if not known or (known[-1].number, known[-1].at) != (place.number, place.at):
            known.append(place)

    def _block(self, rows: Sequence[Row], places: Sequence[Place]) -> list[_Made | InputError | str]:
        """Return what is read of each row, or the count under which the row is dropped."""
        items = [self._asked(_Given(row, at.where, at)) for row, at in zip(rows, places, strict=True)]
        asked = [item for item in items if isinstance(item, _Asked)]
        replies = [reply for item in asked for reply in item.replies]
        tools = [item.tools for item in asked for _ in item.replies]
        encoded = iter(self._chat.read_replies([own for _, own, _ in replies], [r for *_, r in replies], tools))
        return [
            self._made(item, list(islice(encoded, len(item.replies)))) if isinstance(item, _Asked) else item
            for item in items
        ]

    def _asked(self, given: _Given) -> _Asked | InputError | str:
        """Return a row's prompts and responses, or the count under which the row is dropped."""
        row, where, own = given
        try:
            cells, found = self._columns.cells(row, where)
            for name in found:
                self._count(name, True, where)
            example = read_example(cells, self._shape, self._config, where)
            if example is None:
                return "diverging_dropped"
            for name, place in unread.unread_of(row, self._used, example.messages, where).items():
                self._count(name, True, place)
            tools = read_tools(row, self._config, where)
            prompt = self._prompt(example.messages, tools, given, example.conversation)
            turns = self._turns(example, own)
            if prompt is None:
                self.lose("turns_of_dropped_rows", own, len(turns))
                return "long_prompts_dropped"
            if not example.replies:
                omitted = self._chat.omitted(example.messages, tools)
                self._check_written([Compared(example.messages, False, omitted)], where)
            return _Asked(prompt, example, tools, self._earlier(example, turns, tools, given), given)
        except _TooLong:
            raise
        except InputError as error:
            return self._malformed(error)

    def _turns(self, example: Example, place: Place) -> list[int]:
        """Return the places of the assistant's turns before the last one that answer; counts those that do not."""
        if self._shape is not Shape.demonstration or self._config.turns is AssistantTurns.last:
            return []
        why = {i: _no_answer(example.messages, i) for i, m in enumerate(example.messages) if m["role"] == "assistant"}
        for count in filter(None, why.values()):
            self.lose(count, place)
        return [i for i, count in why.items() if count is None]

    def _earlier(
        self, example: Example, turns: Sequence[int], tools: tuple[Any, ...] | None, given: _Given
    ) -> tuple[tuple[StoredPrompt, int], ...]:
        """Return the answers at these places, each with the turns before it as its prompt."""
        found = [(self._prompt(example.messages[:i], tools, given, True), i) for i in turns]
        self.lose("turns_of_long_prompts", given.place, sum(prompt is None for prompt, _ in found))
        return tuple((prompt, i) for prompt, i in found if prompt is not None)

    def _malformed(self, error: InputError) -> InputError:
        """Raise what is wrong with a row, or return it where such rows are dropped."""
        if self._config.bad_rows is BadRows.error:
            raise error
        self.first_bad = self.first_bad or error
        return error

    def _check_written(self, conversations: Sequence[Compared], where: str) -> None:
        """Count what the template leaves out of a row; InputError where that is something said."""
        for name, place in omissions_of(conversations, self._chat, where).items():
            self._count(name, True, place)

    def _count(self, name: str, found: bool, place: str) -> None:
        self.counts[name] += found
        if found:
            self._first.setdefault(name, place)

    def notes(self) -> Iterator[str]:
        """Say which rows are read otherwise than a user may think."""
        yield from omissions.notes(self.counts, self._first, self._chat)
        yield from unread.notes(self.counts, self._first)
        yield from self._columns.notes(self.counts, self._first)

    def _made(self, asked: _Asked, encoded: Sequence[Reply | InputError]) -> _Made | InputError | str:
        """Return what a row gives with its responses encoded, or the count under which the row is dropped."""
        whole, compared = [], []
        for (_, messages, reply), found in zip(asked.replies, encoded, strict=True):
            if isinstance(found, InputError):
                return self._malformed(InputError(asked.given.where, found.given, found.allowed))
            whole.append(found.ids)
            compared.append(Compared([*messages, reply], True, found.omitted))
        try:
            self._check_written(compared, asked.given.where)
        except InputError as error:
            return self._malformed(error)
        if any(map(is_empty, asked.example.replies)):
            self.lose("turns_of_dropped_rows", asked.given.place, len(asked.earlier))
            return "empty_dropped"
        n, limit = len(asked.example.replies), self._config.response_tokens
        if self._shape is Shape.preference and whole[0][:limit] == whole[1][:limit]:
            return "identical_dropped"
        made = [
            self._completion(prompt, reply, ids, asked)
            for (prompt, _, reply), ids in zip(asked.replies, whole, strict=True)
        ]
        return _Made(asked.prompt, tuple(made[:n]), asked.example.scores, tuple(made[n:]))

    def _prompt(
        self, messages: tuple[Message, ...], tools: tuple[Any, ...] | None, given: _Given, conversation: bool
    ) -> StoredPrompt | None:
        """Return the prompt of these messages, the first one read of several; None where it is too long."""
        try:
            rendered = self._chat.render_prompt(messages, tools).encode("utf-8", "surrogatepass")
            number = self._numbers.setdefault(hashlib.sha256(rendered).digest(), len(self._numbers))
            if number not in self._prompts:
                self._prompts[number] = self._new_prompt(number, messages, tools, given, conversation)
        except _TooLong:
            raise
        except InputError as error:
            raise InputError(given.where, error.given, error.allowed) from error
        return self._prompts[number]

    def _new_prompt(
        self,
        number: int,
        messages: tuple[Message, ...],
        tools: tuple[Any, ...] | None,
        given: _Given,
        conversation: bool,
    ) -> StoredPrompt | None:
        ids = self._chat.encode_prompt(messages, tools)
        limit = self._config.prompt_tokens
        if len(ids) > limit:
            if self._config.long_prompts is PromptOverflow.error:
                raise _TooLong(given.where, f"a prompt of {len(ids)} tokens", f"at most data.max_prompt_tokens={limit}")
            if self._config.long_prompts is PromptOverflow.drop:
                return None
            self.truncated.add(number)
            ids = ids[-limit:]
        place = (given.place.number, given.place.at)
        try:
            return self._writer.add_prompt(number, messages, ids, tools, conversation, place, given.row)
        except TypeError as error:  # a key of a message that is read from a table
            raise InputError(given.where, reason(error), "messages and tools of texts, numbers and lists") from error

    def _completion(self, prompt: StoredPrompt, reply: Message, ids: list[int], asked: _Asked) -> StoredCompletion:
        """Cut a response to the limit; its text is its content where that is all of it."""
        cut = ids[: self._config.response_tokens]
        whole = cut == ids and not calls(reply)
        text = reply["content"] if whole else self._chat.decode(cut)
        own = asked.given.place
        return self._writer.add_completion(prompt, text, cut, asked.example.label, (own.number, own.at))


def _why(error: InputError, where: str) -> str:
    """Say what is wrong with a row without naming the row again."""
    return str(error).removeprefix(where).lstrip(":, ")


def _no_answer(messages: Sequence[Message], place: int) -> str | None:
    """Return the count of an assistant's turn that is no demonstration; None where it answers what stands before it."""
    before = messages[place - 1]["role"] if place else None
    if before not in ("user", "tool"):
        return "turns_after_assistant" if before == "assistant" else "turns_without_prompt"
    return "empty_turns" if is_empty(messages[place]) else None
