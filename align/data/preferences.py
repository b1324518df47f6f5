"""Preference pairs for training and evaluation: loaded, checked, tokenized, cut to length, and split by prompt."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from align.activity import Activity
from align.config import BadRows, DataConfig, PromptOverflow
from align.data.conversations import Example, Message, is_conversation, is_empty, read_example, read_tools
from align.data.sources import Row, load_rows, matching
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Pair, Prompt

COUNTS = (  # rows = the sum of the next eight, which count pairs
    "rows",
    "malformed_dropped",  # cells that are no prompt and responses (data.bad_rows)
    "identical_dropped",  # chosen equals rejected, also after cutting
    "empty_dropped",  # a response without text
    "diverging_dropped",  # two conversations that differ before their last message
    "long_prompts_dropped",
    "overlapping_dropped",  # held-out pairs whose prompt is trained on
    "unasked_dropped",  # outside train_where or held_out_where
    "train",
    "held_out",
    "long_prompts_truncated",  # prompts that lost their first tokens
    "responses_cut",  # responses that lost their last tokens, and with them their end token
    "train_prompts",
    "held_out_prompts",
    "control_tokens_named",  # rows whose texts spell a control token (model.control_tokens_in_text)
    "keys_unwritten",  # rows with keys in their messages that the template does not write
)


@dataclass(frozen=True)
class Preferences:
    """Pairs of the method, and pairs of a reward model that is trained for the run."""

    train: list[Pair]
    held_out: list[Pair]
    counts: dict[str, int]  # the keys of COUNTS
    reward_train: list[Pair]
    reward_held_out: list[Pair]
    notes: tuple[str, ...] = ()  # a line on each kind of row that is read otherwise than a user may think


def load_preferences(config: DataConfig, chat: ChatTokenizer, activity: Activity | None = None) -> Preferences:
    """Load, check and split the pairs that `config` names. Every dropped row is counted.

    Held-out pairs come from `held_out_path`, else from `held_out_split`, else from a share of the prompts. That share
    is chosen by a hash of the prompt's text, independent of the order of rows, of a seed and of the responses. No
    prompt is on both sides. Pairs on the same prompt share one `Prompt`, with the first of their rows.

    `train_where` and `held_out_where` then filter the pairs of each side by columns. They move no pair to the other
    side and change no prompt's id, so that the same prompt gets the same noise under every filter.

    Raises InputError for unreadable data, a missing column, a bad cell (with its row, counted from 1) where `bad_rows`
    is error, a prompt that is too long where `long_prompts` is error, or nothing left.
    """
    activity = activity or Activity()
    activity.advance("reading the data")
    reader = _Reader(config, chat, activity)
    train_rows, held_rows = _rows(config)
    every = reader.pairs(train_rows, config.path)
    source = config.held_out_path or config.path
    if held_rows is None:
        held = _held_prompts([item.pair for item in every], config.held_out_fraction)
        every_held = [item for item in every if item.pair.prompt.id in held]
        every = [item for item in every if item.pair.prompt.id not in held]
    else:
        given = reader.pairs(held_rows, source)
        seen = {item.pair.prompt.id for item in every}
        every_held = [item for item in given if item.pair.prompt.id not in seen]
        reader.counts["overlapping_dropped"] += len(given) - len(every_held)
    train = _where(every, config.train_where, "data.train_where", config.path)
    held_out = _where(every_held, config.held_out_where, "data.held_out_where", source)
    reader.counts["unasked_dropped"] += len(every) + len(every_held) - len(train) - len(held_out)
    counts = _counts(reader, train, held_out, chat.end_ids)
    lost = ", ".join(f"{k} {v}" for k, v in counts.items() if v and (k.endswith("dropped") or k == "rows"))
    if reader.first_bad is not None:
        lost += f"; first: {reader.first_bad}"
    if not train:
        raise InputError("data.path", config.path, f"data that leaves pairs to train on ({lost})")
    if held_rows is not None and not held_out:
        key = "data.held_out_path" if config.held_out_path else "data.held_out_split"
        raise InputError(key, config.held_out_path or config.held_out_split, f"data that leaves pairs ({lost})")
    reward_train = _where(every, config.reward_where, "data.reward_where", config.path)
    whole = [item.pair for item in every_held]
    return Preferences(train, held_out, counts, reward_train, reward_held_out=whole, notes=tuple(reader.notes()))


def _where(items: Sequence[_Read], where: Mapping[str, Any], key: str, source: str) -> list[Pair]:
    kept = matching([item.row for item in items], where, key, source)
    return [item.pair for item, keep in zip(items, kept, strict=True) if keep]


def prompts_of(pairs: Iterable[Pair]) -> list[Prompt]:
    """Return each prompt once, in order of first appearance."""
    return list({pair.prompt.id: pair.prompt for pair in pairs}.values())


def digest(pairs: Sequence[Pair]) -> str:
    """Hash the pairs' tokens, in order: they reflect texts, template and cuts."""
    rows = [[p.prompt.input_ids, p.chosen_ids, p.rejected_ids] for p in pairs]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def set_aside(data: Preferences, fraction: float) -> tuple[Preferences, list[Pair]]:
    """Split off a share of the training prompts, chosen as held-out ones are; refused where there is one alone."""
    held = _held_prompts(data.reward_train, fraction)
    train = [pair for pair in data.train if pair.prompt.id not in held]
    rest = [pair for pair in data.reward_train if pair.prompt.id not in held]
    aside = [pair for pair in data.reward_train if pair.prompt.id in held]
    if not train:
        raise InputError("evaluation.reward_model_fraction", fraction, "a share that leaves pairs to train on")
    counts = data.counts | {"train": len(train), "train_prompts": len(prompts_of(train)), "set_aside": len(aside)}
    return replace(data, train=train, counts=counts, reward_train=rest), aside


def _counts(reader: _Reader, train: list[Pair], held_out: list[Pair], ends: Sequence[int]) -> dict[str, int]:
    prompts = [prompts_of(train), prompts_of(held_out)]
    counts = reader.counts | Counter(
        train=len(train),
        held_out=len(held_out),
        long_prompts_truncated=sum(prompt.id in reader.truncated for side in prompts for prompt in side),
        responses_cut=sum(ids[-1] not in ends for p in train + held_out for ids in (p.chosen_ids, p.rejected_ids)),
        train_prompts=len(prompts[0]),
        held_out_prompts=len(prompts[1]),
    )
    return {name: counts[name] for name in COUNTS}


def _rows(config: DataConfig) -> tuple[list[Row], list[Row] | None]:
    load = partial(load_rows, subset=config.subset)
    own = partial(load, config.path, key="data.path", folder=config.folder, revision=config.revision)
    train = own(split=config.train_split, split_key="data.train_split")
    if config.held_out_path is not None:
        split = config.held_out_split or "train"
        return train, load(config.held_out_path, key="data.held_out_path", split=split, split_key="data.held_out_split")
    if config.held_out_split is not None:
        return train, own(split=config.held_out_split, split_key="data.held_out_split")
    return train, None


_AT_ONCE = 1000  # rows whose responses are tokenized in one call
_Response = tuple[str, tuple[int, ...]]  # text and ids, both cut to the limit


class _TooLong(InputError):
    """A prompt that is too long in a well-formed row, to which `bad_rows` does not apply."""


class _Asked(NamedTuple):
    """A row that was read, before its responses are encoded."""

    prompt: Prompt
    example: Example
    where: str


class _Read(NamedTuple):
    pair: Pair
    row: Row  # of the pair; its prompt holds the first row with that prompt


class _Reader:
    """Turns rows into pairs and counts what happens to them; prompts are numbered over everything it reads."""

    def __init__(self, config: DataConfig, chat: ChatTokenizer, activity: Activity) -> None:
        self._config, self._chat, self._activity = config, chat, activity
        self._numbers: dict[str, int] = {}  # by content, in order of appearance: limits do not change them
        self._prompts: dict[int, Prompt | None] = {}  # None: too long
        self.truncated: set[int] = set()  # prompts
        self.counts: Counter[str] = Counter()  # rows, and why some of them were dropped
        self.first_bad: InputError | None = None  # of the malformed rows that were dropped
        self._first: dict[str, str] = {}  # place of the first row of a count, and what it has

    def pairs(self, rows: Sequence[Row], source: str) -> list[_Read]:
        self._check_columns(rows[0], source)
        read: list[Pair | str] = []
        for at in range(0, len(rows), _AT_ONCE):
            self._activity.advance("rows tokenised", at, len(rows))
            read += self._block(rows[at : at + _AT_ONCE], source, at)
        self.counts["rows"] += len(rows)
        self.counts.update(item for item in read if isinstance(item, str))
        return [_Read(item, row) for item, row in zip(read, rows, strict=True) if isinstance(item, Pair)]

    def _check_columns(self, row: Row, source: str) -> None:
        config = self._config
        needed = ["chosen_column", "rejected_column", *(["system_column"] if config.system_column is not None else [])]
        whole = is_conversation(row.get(config.chosen_column)) and is_conversation(row.get(config.rejected_column))
        if not whole or config.prompt_column != DataConfig.prompt_column:  # a configured column must exist
            needed.append("prompt_column")
        for name in needed:
            column = getattr(config, name)
            if column not in row:
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
            example = read_example(row, self._config, where)
            if example is None:
                return "diverging_dropped"
            tools = read_tools(row, self._config, where)
            number = self._numbers.setdefault(_content(example.messages, tools), len(self._numbers))
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


def _held_prompts(pairs: Sequence[Pair], fraction: float) -> set[int]:
    """Return the ids of the share of prompts whose content hashes lowest; none for a fraction of 0."""
    prompts = prompts_of(pairs)
    if fraction == 0 or not prompts:
        return set()
    if len(prompts) == 1:
        raise InputError("data.path", "pairs on a single prompt", "two prompts or more, or data.held_out_path as well")
    hashes = {p.id: hashlib.sha256(_content(p.messages, p.tools).encode()).digest() for p in prompts}
    ranked = sorted(prompts, key=lambda prompt: hashes[prompt.id])
    size = min(len(prompts) - 1, max(1, round(fraction * len(prompts))))
    return {prompt.id for prompt in ranked[:size]}


def _content(messages: Sequence[Message], tools: Sequence[Any] | None) -> str:
    """Write what tells a prompt from others; a prompt of plain turns is known by their roles and contents."""
    turns: list[Any] = [[m["role"], m["content"], *_others(m)] for m in messages]
    return json.dumps([*turns, *([{"tools": tools}] if tools else [])], ensure_ascii=False)


def _others(message: Message) -> list[Any]:
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    return [others] if others else []
