"""Data for training and evaluation: rows loaded, checked, tokenized, cut to length, and split by prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from align.activity import Activity
from align.config import DataConfig, Shape
from align.data.arrow import Store
from align.data.cache import Unkept, kept
from align.data.duplicates import near, near_duplicates, repeated
from align.data.examples import Examples, Side, prompts_of
from align.data.mixture import by_source, note, with_repeats
from align.data.prepared import COUNTS, Preferences, facts_of, held_prompts, lost_of, reopened, sizes_of
from align.data.read import Read, RowsOf
from align.data.reader import Reader
from align.data.rows import Rows, read_rows, unkept
from align.data.sources import matching
from align.data.stored_examples import ExamplesWriter, StoredPrompt
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Prompt


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
    rows = rows or read_rows(config, activity)
    if rows.made_of is None:
        return _made(config, chat, activity, rows, ExamplesWriter(Store()))
    parts = rows.made_of | {"data": repr(config), "chat": chat.identity}
    activity.advance("looking for the tokens in the cache")
    try:
        folder, facts = kept("tokens", parts, partial(_facts_made, config, chat, activity, rows))
    except Unkept as error:
        raise unkept(config, error) from error
    return reopened(folder, facts, rows)


def _facts_made(
    config: DataConfig, chat: ChatTokenizer, activity: Activity, rows: Rows, folder: Path
) -> dict[str, Any]:
    """Make preferences in a folder."""
    writer = ExamplesWriter(Store(folder))
    return facts_of(_made(config, chat, activity, rows, writer), folder)


def _made(
    config: DataConfig, chat: ChatTokenizer, activity: Activity, rows: Rows, writer: ExamplesWriter
) -> Preferences:
    """Read, check and split rows; texts and tokens go to the writer."""
    reader, examples = Reader(config, chat, activity, rows.held_out_shape, writer), Examples(config.ranked)
    read, given = _read_all(reader, rows, config)
    writer.end()
    activity.advance("parting training and held-out rows")
    every, every_held = _split(reader, read, given, config)
    origin, source = config.named(), config.held_out_path or config.named()
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
    _check_left(config, rows, lost_of(reader.counts, reader.first_bad), train, held_out)
    reward_train = examples.pairs(_where(every, config.reward_where, "data.reward_where", origin))
    whole = examples.pairs(every_held)
    mixed = by_source(rows.train, train, held_out)
    notes = (*([note(rows.train, mixed)] if mixed else []), *rows.notes, *reader.notes())
    return Preferences(
        trained, measured, counts, reward_train, whole, notes, rows.shape, str(rows), reader.dropped, mixed
    )


def _check_left(config: DataConfig, rows: Rows, lost: str, train: Sequence[Read], held_out: Sequence[Read]) -> None:
    """Raise InputError where no row is left to train on, or none to measure on although held-out rows were given."""
    what = "pairs" if rows.shape is Shape.preference else "rows"
    if not train:
        raise InputError("data.path", config.named(), f"data that leaves {what} to train on ({lost})")
    if rows.held_out is not None and not held_out:
        key = "data.held_out_path" if config.held_out_path else "data.held_out_split"
        raise InputError(key, config.held_out_path or config.held_out_split, f"data that leaves {what} ({lost})")


def _read_all(reader: Reader, rows: Rows, config: DataConfig) -> tuple[list[Read], list[Read] | None]:
    """Read the rows of every source, and the held-out rows where they are given apart."""
    every = []
    for source in rows.train:
        reader.read_by(source.config, source.shape)
        every += reader.read(source.rows, source.place, source.name)
    reader.read_by(config, rows.held_out_shape)
    place = config.held_out_path or config.named()
    return every, None if rows.held_out is None else reader.read(rows.held_out, place)


def _split(
    reader: Reader, every: list[Read], given: list[Read] | None, config: DataConfig
) -> tuple[list[Read], list[Read]]:
    """Part all rows: no prompt, nor a near-duplicate of one, is on both sides."""
    prompts = _prompts(every)
    if given is None:
        held = held_prompts(prompts, config.held_out_fraction, lost_of(reader.counts, reader.first_bad))
        held |= near(prompts, [prompt for prompt in prompts if prompt.id in held])
        if prompts and len(held) == len(prompts):
            alike = "prompts that differ in case, white space and punctuation alone"
            raise InputError("data.path", alike, "different prompts, or data.held_out_path as well")
        reader.counts["near_duplicate_prompts"] += near_duplicates(prompts)
        return [r for r in every if r.prompt.id not in held], [r for r in every if r.prompt.id in held]
    seen = {prompt.id for prompt in prompts}
    apart = [row for row in given if row.prompt.id not in seen]
    near_ones = near(_prompts(apart), prompts)
    kept_apart = [row for row in apart if row.prompt.id not in near_ones]
    _drop(reader, "overlapping_dropped", given, apart)
    _drop(reader, "near_overlapping_dropped", apart, kept_apart)
    reader.counts["near_duplicate_prompts"] += near_duplicates(_prompts([*every, *given]))
    return every, kept_apart


def _prompts(rows: Sequence[Read]) -> list[StoredPrompt]:
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
            reader.lose(count, row.place)


def _where(
    rows: Sequence[Read], where: Mapping[str, Any], key: str, source: str, beside: Sequence[Read] = ()
) -> list[Read]:
    if not where:
        return list(rows)
    found = matching(RowsOf(rows), where, key, source, RowsOf(beside))
    return [row for row, keep in zip(rows, found, strict=True) if keep]


def _counts(reader: Reader, trained: Side, measured: Side, ends: Sequence[int]) -> dict[str, int]:
    cut = [one.ids[-1] not in ends for side in (trained, measured) for _, every in side.given() for one in every]
    prompts = [*trained.prompts, *measured.prompts]
    counts = reader.counts | Counter(
        long_prompts_truncated=sum(prompt.id in reader.truncated for prompt in prompts),
        responses_cut=sum(cut),
        responses=len(cut),
        **sizes_of(trained, measured),
    )
    return {name: counts[name] for name in COUNTS}
