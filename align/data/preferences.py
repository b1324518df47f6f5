"""Preference pairs for training and evaluation: loaded, checked, tokenized, cut to length, and split by prompt."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from align.activity import Activity
from align.config import DataConfig
from align.data.reader import Read, Reader, content_of
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
    "template_cells_missing",  # rows that hold nothing in a column of a template (data.prompt), which is empty there
    "messages_in_text",  # rows with messages as JSON in a text cell, read as messages
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
    reader = Reader(config, chat, activity)
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


def _where(items: Sequence[Read], where: Mapping[str, Any], key: str, source: str) -> list[Pair]:
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


def _counts(reader: Reader, train: list[Pair], held_out: list[Pair], ends: Sequence[int]) -> dict[str, int]:
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


def _held_prompts(pairs: Sequence[Pair], fraction: float) -> set[int]:
    """Return the ids of the share of prompts whose content hashes lowest; none for a fraction of 0."""
    prompts = prompts_of(pairs)
    if fraction == 0 or not prompts:
        return set()
    if len(prompts) == 1:
        raise InputError("data.path", "pairs on a single prompt", "two prompts or more, or data.held_out_path as well")
    hashes = {p.id: hashlib.sha256(content_of(p.messages, p.tools).encode()).digest() for p in prompts}
    ranked = sorted(prompts, key=lambda prompt: hashes[prompt.id])
    size = min(len(prompts) - 1, max(1, round(fraction * len(prompts))))
    return {prompt.id for prompt in ranked[:size]}
