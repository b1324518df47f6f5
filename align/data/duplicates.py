"""Duplicates: rows that repeat another exactly, and prompts that differ in case, white space or punctuation alone."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from align.data.conversations import Message
from align.data.read import Read
from align.types import Prompt, fingerprint_of

_ENDS = ".,;:!?…\"'“”‘’«»¿¡。，！？"  # punctuation at the ends of words; within one, and as an operator, it may matter


_SAID = ("tool_calls", "reasoning_content")  # what tells prompts apart beside roles and contents


def normal_form(prompt: Prompt) -> bytes:
    """Hash a prompt's content as near-duplicates share it: compatible characters, lower case, bare words."""
    turns = [
        {"role": turn["role"], "content": bare(turn["content"])} | {key: turn[key] for key in _SAID if turn.get(key)}
        for turn in prompt.messages
    ]
    return fingerprint_of(content_of(turns, None))


def bare(text: str) -> str:
    """Write a text in compatible characters, lower case, and words without punctuation at their ends."""
    words = (word.strip(_ENDS) for word in unicodedata.normalize("NFKC", text).casefold().split())
    return " ".join(word for word in words if word)


def near(prompts: Iterable[Prompt], others: Iterable[Prompt]) -> set[int]:
    """Return the ids of the `prompts` that are one of the `others`, or a near-duplicate of one."""
    forms = {normal_form(prompt) for prompt in others}
    return {prompt.id for prompt in prompts if normal_form(prompt) in forms}


def near_duplicates(prompts: Collection[Prompt]) -> int:
    """Count the prompts that are a near-duplicate of an earlier one of these different prompts."""
    return len(prompts) - len({normal_form(prompt) for prompt in prompts})


def repeated(rows: Sequence[Read], columns: Sequence[str]) -> int:
    """Count the rows that repeat an earlier one in all columns that are read."""
    return len(rows) - len({_digest([read.row.get(name) for name in columns]) for read in rows})


def _digest(cells: list[Any]) -> bytes:
    return hashlib.sha256(json.dumps(cells, sort_keys=True, default=str).encode()).digest()


def content_of(messages: Sequence[Message], tools: Sequence[Any] | None) -> str:
    """Write what tells a prompt from others; a prompt of plain turns is known by their roles and contents."""
    turns: list[Any] = [[m["role"], m["content"], *_others(m)] for m in messages]
    return json.dumps([*turns, *([{"tools": tools}] if tools else [])], ensure_ascii=False)


def _others(message: Message) -> list[Any]:
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    return [others] if others else []
