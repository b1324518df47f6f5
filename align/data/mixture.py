"""Sources of training rows, and what a mixture takes of each: shares of the rows by weight."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from align.config import DataConfig
from align.data.files import Row
from align.data.sources import load_rows


@dataclass(frozen=True)
class Source:
    """Rows that are taken of one data set, and by what they are read."""

    name: str  # in the mixture; empty where there is none
    config: DataConfig
    rows: Sequence[Row]  # taken, each once
    given: int  # rows of the data set
    wanted: int  # rows that the weight asks for; more than are given where pairs repeat

    @property
    def place(self) -> str:
        """What its rows are read from, as lines name it."""
        return str(self.config.path)


def load_sources(config: DataConfig) -> list[Source]:
    """Load the training rows of each source of `config`, and choose as many of each as its weight says.

    As many rows are taken as the weights allow with no row more often than its source's `repeat`: all of the source
    that is scarcest for its weight, of others those whose content hashes lowest, whatever the seed and their order.

    Raises:
        InputError: A source cannot be read.
    """
    sources = config.sources()
    rows = {name: load_source(own, name) for name, own in sources.items()}
    wanted = shares({name: len(own) for name, own in rows.items()}, config)
    return [
        Source(name, own, lowest(rows[name], wanted[name]), len(rows[name]), wanted[name])
        for name, own in sources.items()
    ]


def load_source(
    config: DataConfig, name: str, *, split: str | None = None, split_key: str = "train_split"
) -> list[Row]:
    """Load one split of one source, the training split where none is given."""
    prefix = f"data.mixture.{name}" if name else "data"
    load = partial(load_rows, subset=config.subset, folder=config.folder, revision=config.revision)
    split = config.train_split if split is None else split
    return load(str(config.path), key=f"{prefix}.path", split=split, split_key=f"{prefix}.{split_key}")


def shares(given: Mapping[str, int], config: DataConfig) -> dict[str, int]:
    """Compute how many rows of each source a mixture takes, with repeats; all where nothing is weighted."""
    most = {name: rows * (config.mixture[name].repeat if config.mixture else 1) for name, rows in given.items()}
    weights = {name: source.weight for name, source in config.mixture.items() if source.weight is not None}
    if not weights:
        return most
    scale = min(most[name] / weight for name, weight in weights.items())
    return {name: max(1, min(most[name], round(scale * weight))) for name, weight in weights.items()}


def lowest(rows: Sequence[Row], count: int) -> Sequence[Row]:
    """Choose the rows whose content hashes lowest, in their order; all where there are no more."""
    if count >= len(rows):
        return rows
    hashes = [hashlib.sha256(json.dumps(row, sort_keys=True, default=repr).encode()).digest() for row in rows]
    chosen = sorted(sorted(range(len(rows)), key=lambda place: (hashes[place], place))[:count])
    return [rows[place] for place in chosen]


def note(sources: Sequence[Source]) -> str:
    """Say in a line what a mixture takes of each source."""
    total = sum(source.wanted for source in sources)
    parts = []
    for source in sources:
        again = source.wanted - len(source.rows)
        more = f" and {again} of them again" if again > 0 else ""
        share = f"{source.wanted / total:.1%}"
        parts.append(f"{source.name} {share}, {len(source.rows)} of {source.given} rows{more} ({source.place})")
    return f"mixture of {total} rows: {'; '.join(parts)}"
