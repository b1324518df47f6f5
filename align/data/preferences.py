"""Data for training and evaluation: rows loaded, checked, tokenized, cut to length, and split by prompt."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from align.activity import Activity
from align.config import DataConfig, Shape
from align.data.duplicates import near, near_duplicates, repeated
from align.data.examples import Examples, Side, prompts_of
from align.data.mixture import Source, by_source, note, with_repeats
from align.data.reader import Dropped, Read, Reader, content_of
from align.data.rows import Rows, read_rows
from align.data.sources import matching
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Pair, Prompt

COUNTS = (  # rows = the sum of the next ten, which count rows; a mixture may repeat some of `train`
    "rows",
    "malformed_dropped",  # cells that are not what the shape has (data.bad_rows)
    "identical_dropped",  # chosen equals rejected, also after cutting
    "empty_dropped",  # a response without text
    "diverging_dropped",  # conversations that differ before their last message
    "long_prompts_dropped",
    "overlapping_dropped",  # held-out rows whose prompt is trained on
    "near_overlapping_dropped",  # held-out rows whose prompt differs from a trained one in case or punctuation alone
    "unasked_dropped",  # outside train_where or held_out_where
    "train",
    "held_out",
    "long_prompts_truncated",  # prompts that lost their first tokens
    "responses_cut",  # responses that lost their last tokens, and with them their end token
    "train_prompts",
    "held_out_prompts",
    "control_tokens_named",  # rows whose texts spell a control token (model.control_tokens_in_text)
    "keys_unwritten",  # rows with keys in their messages that the template does not write
    "duplicate_rows",  # that repeat an earlier row; kept
    "near_duplicate_prompts",  # that differ from an earlier one in case, white space or punctuation alone; kept
    "template_cells_missing",  # rows that hold nothing in a column of a template (data.prompt), which is empty there
    "messages_in_text",  # rows with messages as JSON in a text cell, read as messages
    "dialogues_in_text",  # rows with turns of Human: and Assistant: in a text cell, read as messages
    "train_pairs",
    "held_out_pairs",
    "train_demonstrations",
    "responses",  # given ones on both sides
    "unpartnered",  # completions on prompts that have desirable or undesirable ones alone: in no pair
    "tied_pairs",  # ranked responses of one score: no pair
    "identical_pairs",  # ranked or labelled responses of one text: no pair
    # The next ones are turns of conversations before the last one, which are no demonstrations.
    "overlapping_turns",  # whose prompt is held out
    "turns_without_prompt",  # the assistant opens the conversation
    "turns_after_assistant",  # another turn of the assistant stands before, and no prompt
    "empty_turns",  # that say nothing and call no tool
    "turns_of_long_prompts",
    "turns_of_dropped_rows",  # that answer, in rows whose last prompt is too long, or last turn is empty
)
_UNUSED = COUNTS[COUNTS.index("unpartnered") :]
LOST = (*(name for name in COUNTS if name.endswith(("dropped", "cut", "truncated"))), *_UNUSED)
REPEATED = ("duplicate_rows", "near_duplicate_prompts")


@dataclass(frozen=True)
class Preferences:
    """What the method learns from and is measured on, and pairs of a reward model that is trained for the run."""

    trained: Side
    measured: Side  # held out
    counts: dict[str, int]  # the keys of COUNTS
    reward_train: list[Pair]
    reward_held_out: list[Pair]
    notes: tuple[str, ...] = ()  # a line on each kind of row that is read otherwise than a user may think
    shape: Shape = Shape.preference
    rows: str = ""  # shape and columns, in words
    dropped: Mapping[str, Sequence[Dropped]] = field(default_factory=dict)  # by count
    sources: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # counts of each data set of a mixture

    @property
    def train(self) -> list[Pair]:
        """Training pairs."""
        return self.trained.pairs

    @property
    def held_out(self) -> list[Pair]:
        """Held-out pairs."""
        return self.measured.pairs


def load_preferences(
    config: DataConfig, chat: ChatTokenizer, activity: Activity | None = None, rows: Rows | None = None
) -> Preferences:
    """Load, check and split the data that `config` names, or these `rows` of it. Every dropped row is counted.

    Held-out rows come from `held_out_path`, else from `held_out_split`, else from a share of the prompts. That share
    is chosen by a hash of the prompt's text, independent of the order of rows, of a seed and of the responses. No
    prompt is on both sides, nor are near-duplicates. Rows on the same prompt share one `Prompt`, with the first of
    them.

    `train_where` and `held_out_where` then filter the rows of each side by columns. They move no row to the other
    side and change no prompt's id, so that the same prompt gets the same noise under every filter.

    Raises InputError for unreadable data, a missing column, a bad cell (with its row, counted from 1) where `bad_rows`
    is error, a prompt that is too long where `long_prompts` is error, or nothing left.
    """
    activity = activity or Activity()
    activity.advance("reading the data")
    rows = rows or read_rows(config)
    reader, examples = Reader(config, chat, activity, rows.held_out_shape), Examples(config.ranked)
    origin = config.named()
    source = config.held_out_path or origin
    every, every_held = _split(reader, rows, config)
    twice = repeated([*every, *every_held], rows.columns)
    every = with_repeats(every, rows.train)
    parted = rows.held_out is None  # else the sides have columns of their own
    train = _where(every, config.train_where, "data.train_where", origin, every_held if parted else ())
    held_out = _where(every_held, config.held_out_where, "data.held_out_where", source, every if parted else ())
    _drop(reader, "unasked_dropped", [*every, *every_held], [*train, *held_out])
    measured = examples.side(held_out, reader.counts, last=True)
    trained = examples.side(train, reader.counts)
    if any(row.earlier for row in train):
        trained = _kept_apart(trained, [row.prompt for row in every_held], reader)
    reader.counts.update(train=len(train), held_out=len(held_out), duplicate_rows=twice)
    counts = _counts(reader, trained, measured, chat.end_ids)
    lost = _lost(reader.counts, reader.first_bad)
    what = "pairs" if rows.shape is Shape.preference else "rows"
    if not train:
        raise InputError("data.path", origin, f"data that leaves {what} to train on ({lost})")
    if rows.held_out is not None and not held_out:
        key = "data.held_out_path" if config.held_out_path else "data.held_out_split"
        raise InputError(key, config.held_out_path or config.held_out_split, f"data that leaves {what} ({lost})")
    reward_train = examples.pairs(_where(every, config.reward_where, "data.reward_where", origin))
    whole = examples.pairs(every_held)
    mixed = by_source(rows.train, train, held_out)
    notes = (*([note(rows.train, mixed)] if mixed else []), *rows.notes, *reader.notes())
    return Preferences(
        trained, measured, counts, reward_train, whole, notes, rows.shape, str(rows), reader.dropped, mixed
    )


def _split(reader: Reader, rows: Rows, config: DataConfig) -> tuple[list[Read], list[Read]]:
    """Read all rows and part them: no prompt, nor a near-duplicate of one, is on both sides."""
    every = [item for source in rows.train for item in _read(reader, source)]
    reader.read_by(config, rows.held_out_shape)
    prompts = _prompts(every)
    if rows.held_out is None:
        held = _held_prompts(prompts, config.held_out_fraction, _lost(reader.counts, reader.first_bad))
        held |= near(prompts, [prompt for prompt in prompts if prompt.id in held])
        if prompts and len(held) == len(prompts):
            given = "prompts that differ in case, white space and punctuation alone"
            raise InputError("data.path", given, "different prompts, or data.held_out_path as well")
        reader.counts["near_duplicate_prompts"] += near_duplicates(prompts)
        return [r for r in every if r.prompt.id not in held], [r for r in every if r.prompt.id in held]
    given_rows = reader.read(rows.held_out, config.held_out_path or config.named())
    seen = {prompt.id for prompt in prompts}
    apart = [row for row in given_rows if row.prompt.id not in seen]
    alike = near(_prompts(apart), prompts)
    kept = [row for row in apart if row.prompt.id not in alike]
    _drop(reader, "overlapping_dropped", given_rows, apart)
    _drop(reader, "near_overlapping_dropped", apart, kept)
    reader.counts["near_duplicate_prompts"] += near_duplicates(_prompts([*every, *given_rows]))
    return every, kept


def _read(reader: Reader, source: Source) -> list[Read]:
    reader.read_by(source.config, source.shape)
    return reader.read(source.rows, source.place, source.name)


def _prompts(rows: Sequence[Read]) -> list[Prompt]:
    return list({row.prompt.id: row.prompt for row in rows}.values())


def _kept_apart(side: Side, held_out: Sequence[Prompt], reader: Reader) -> Side:
    """Leave out demonstrations, earlier turns of their conversations, whose prompt is held out."""
    alike = near(prompts_of(side.demonstrations), held_out)
    kept = [c for c in side.demonstrations if c.prompt.id not in alike]
    reader.counts["overlapping_turns"] += len(side.demonstrations) - len(kept)
    return replace(side, demonstrations=kept)


def _drop(reader: Reader, count: str, before: Sequence[Read], after: Sequence[Read]) -> None:
    """Count the rows that a step left out."""
    left = {id(row) for row in after}
    for row in before:
        if id(row) not in left:
            reader.drop(count, row.where, row.row)


def _where(
    rows: Sequence[Read], where: Mapping[str, Any], key: str, source: str, beside: Sequence[Read] = ()
) -> list[Read]:
    kept = matching([row.row for row in rows], where, key, source, [row.row for row in beside])
    return [row for row, keep in zip(rows, kept, strict=True) if keep]


def digest(pairs: Sequence[Pair]) -> str:
    """Hash the pairs' tokens, in order: they reflect texts, template and cuts."""
    rows = [[p.prompt.input_ids, p.chosen_ids, p.rejected_ids] for p in pairs]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def set_aside(data: Preferences, fraction: float) -> tuple[Preferences, list[Pair]]:
    """Split off a share of the training prompts, chosen as held-out ones are; refused where there is one alone."""
    held = _held_prompts(prompts_of(data.reward_train), fraction, _lost(data.counts))
    trained = data.trained.without(held)
    rest = [pair for pair in data.reward_train if pair.prompt.id not in held]
    aside = [pair for pair in data.reward_train if pair.prompt.id in held]
    if not trained.prompts or (data.train and not trained.pairs):
        raise InputError("evaluation.reward_model_fraction", fraction, "a share that leaves pairs to train on")
    counts = data.counts | _sizes(trained, data.measured) | {"set_aside": len(aside)}
    if data.shape is Shape.preference:  # whose rows are pairs
        counts["train"] = len(trained.pairs)
    return replace(data, trained=trained, counts=counts, reward_train=rest), aside


def _counts(reader: Reader, trained: Side, measured: Side, ends: Sequence[int]) -> dict[str, int]:
    given = [(prompt.id, ids) for side in (trained, measured) for prompt, every in side.given() for ids in every]
    prompts = [*trained.prompts, *measured.prompts]
    counts = reader.counts | Counter(
        long_prompts_truncated=sum(prompt.id in reader.truncated for prompt in prompts),
        responses_cut=sum(ids[-1] not in ends for _, ids in given),
        responses=len(given),
        **_sizes(trained, measured),
    )
    return {name: counts[name] for name in COUNTS}


def _lost(counts: Mapping[str, int], first_bad: InputError | None = None) -> str:
    """Count rows and those that were dropped, so far, in words."""
    lost = [name for name in COUNTS if name.endswith("dropped") or name == "rows"]
    first = "" if first_bad is None else f"; first: {first_bad}"
    return ", ".join(f"{name} {counts[name]}" for name in lost if counts[name]) + first


def _sizes(trained: Side, measured: Side) -> dict[str, int]:
    return {
        "train_prompts": len(trained.prompts),
        "held_out_prompts": len(measured.prompts),
        "train_pairs": len(trained.pairs),
        "held_out_pairs": len(measured.pairs),
        "train_demonstrations": len(trained.demonstrations),
    }


def _held_prompts(prompts: Sequence[Prompt], fraction: float, lost: str) -> set[int]:
    """Return the ids of the share of prompts whose content hashes lowest; none for a fraction of 0.

    Raises:
        InputError: There is one prompt alone; it says what was `lost` before.
    """
    if fraction == 0 or not prompts:
        return set()
    if len(prompts) == 1:
        given = f"rows on a single prompt ({lost})"
        raise InputError("data.path", given, "two prompts or more, or data.held_out_path as well")
    hashes = {p.id: hashlib.sha256(content_of(p.messages, p.tools).encode()).digest() for p in prompts}
    ranked = sorted(prompts, key=lambda prompt: hashes[prompt.id])
    size = min(len(prompts) - 1, max(1, round(fraction * len(prompts))))
    return {prompt.id for prompt in ranked[:size]}
