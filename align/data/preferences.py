"""Preference pairs for training and evaluation: loaded, checked, tokenized, cut to length, and split by prompt."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from align.activity import Activity
from align.config import DataConfig
from align.data.mixture import Source, load_source, load_sources, lowest, note
from align.data.reader import Read, Reader, content_of
from align.data.sources import Row, load_rows, matching
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Pair, Prompt

COUNTS = (  # rows = the sum of the next eight, which count pairs; a mixture may repeat some of `train`
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
    sources: dict[str, dict[str, int]] = field(default_factory=dict)  # counts of each data set of a mixture


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
    sources, held_rows = load_sources(config), _held_rows(config)
    every = [item for source in sources for item in _read(reader, source)]
    reader.read_by(config)
    origin = config.named()
    source = config.held_out_path or origin
    if held_rows is None:
        held = _held_prompts([item.pair for item in every], config.held_out_fraction)
        every_held = [item for item in every if item.pair.prompt.id in held]
        every = [item for item in every if item.pair.prompt.id not in held]
    else:
        given = reader.pairs(held_rows, source)
        seen = {item.pair.prompt.id for item in every}
        every_held = [item for item in given if item.pair.prompt.id not in seen]
        reader.counts["overlapping_dropped"] += len(given) - len(every_held)
    every, mixed = _mixed(every, every_held, sources)
    train = _where(every, config.train_where, "data.train_where", origin)
    held_out = _where(every_held, config.held_out_where, "data.held_out_where", source)
    reader.counts["unasked_dropped"] += len(every) + len(every_held) - len(train) - len(held_out)
    counts = _counts(reader, train, held_out, chat.end_ids)
    lost = ", ".join(f"{k} {v}" for k, v in counts.items() if v and (k.endswith("dropped") or k == "rows"))
    if reader.first_bad is not None:
        lost += f"; first: {reader.first_bad}"
    if not train:
        raise InputError("data.path", origin, f"data that leaves pairs to train on ({lost})")
    if held_rows is not None and not held_out:
        key = "data.held_out_path" if config.held_out_path else "data.held_out_split"
        raise InputError(key, config.held_out_path or config.held_out_split, f"data that leaves pairs ({lost})")
    reward_train = _where(every, config.reward_where, "data.reward_where", origin)
    whole = [item.pair for item in every_held]
    notes = (*([note(sources)] if mixed else []), *reader.notes())
    return Preferences(train, held_out, counts, reward_train, whole, notes, mixed)


def _read(reader: Reader, source: Source) -> list[Read]:
    reader.read_by(source.config)
    return [item._replace(source=source.name) for item in reader.pairs(source.rows, source.place)]


def _mixed(
    train: Sequence[Read], held_out: Sequence[Read], sources: Sequence[Source]
) -> tuple[list[Read], dict[str, dict[str, int]]]:
    """Repeat training pairs of sources whose weight asks for more rows than there are, and count each source."""
    if not sources[0].name:
        return list(train), {}
    mixed, counts = [], {}
    for source in sources:
        own = [item for item in train if item.source == source.name]
        whole, more = divmod(round(len(own) * source.wanted / len(source.rows)), max(1, len(own)))
        again = {id(row) for row in lowest([item.row for item in own], more)}
        mixed += [item for item in own for _ in range(whole + (more > 0 and id(item.row) in again))]
        counts[source.name] = {
            "rows": source.given,
            "taken": len(source.rows),
            "train": len(own),
            "repeated": (whole - 1) * len(own) + more,
            "held_out": sum(item.source == source.name for item in held_out),
        }
    return mixed, counts


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


def _held_rows(config: DataConfig) -> list[Row] | None:
    """Load the held-out rows of a path or a split of their own; None where they are cut off the training rows."""
    if config.held_out_path is not None:
        split = config.held_out_split or "train"
        key, split_key = "data.held_out_path", "data.held_out_split"
        return load_rows(config.held_out_path, key=key, split=split, split_key=split_key, subset=config.subset)
    if config.held_out_split is not None:
        return load_source(config, "", split=config.held_out_split, split_key="held_out_split")
    return None


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
