"""Sources of training rows, and what a mixture takes of each: shares of the rows by weight."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from align.config import DataConfig
from align.data.files import Row
from align.data.sources import Wanted
from align.data.stored_rows import PickedRows


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


def load_sources(config: DataConfig, rows: Mapping[str, Sequence[Row]]) -> list[Source]:
    """Choose as many rows of each source of `config` as its weight says, of `rows` by the source's name.

    As many rows are taken as the weights allow with no row more often than its source's `repeat`: all of the source
    that is scarcest for its weight, of others those whose content hashes lowest, whatever the seed and their order.
    """
    wanted = shares({name: len(own) for name, own in rows.items()}, config)
    return [
        Source(name, own, _taken(rows[name], wanted[name]), len(rows[name]), wanted[name])
        for name, own in config.sources().items()
    ]


def named_rows(config: DataConfig, name: str, *, split: str | None = None, split_key: str = "train_split") -> Wanted:
    """Return what names one split of one source, the training split where none is given."""
    prefix = f"data.mixture.{name}" if name else "data"
    return Wanted(
        str(config.path),
        key=f"{prefix}.path",
        split=config.train_split if split is None else split,
        split_key=f"{prefix}.{split_key}",
        subset=config.subset,
        folder=config.folder,
        revision=config.revision,
    )


def shares(given: Mapping[str, int], config: DataConfig) -> dict[str, int]:
    """Compute how many rows of each source a mixture takes, with repeats; all where nothing is weighted."""
    most = {name: rows * (config.mixture[name].repeat if config.mixture else 1) for name, rows in given.items()}
    weights = {name: source.weight for name, source in config.mixture.items() if source.weight is not None}
    if not weights:
        return most
    scale = min(most[name] / weight for name, weight in weights.items())
    return {name: max(1, min(most[name], round(scale * weight))) for name, weight in weights.items()}


def _taken(rows: Sequence[Row], count: int) -> Sequence[Row]:
    return rows if count >= len(rows) else PickedRows(rows, lowest(rows, count))


def lowest(rows: Iterable[Row], count: int) -> list[int]:
    """Choose the places of the rows whose content hashes lowest, in their order."""
    hashes = [hashlib.sha256(json.dumps(row, sort_keys=True, default=repr).encode()).digest() for row in rows]
    return sorted(sorted(range(len(hashes)), key=lambda place: (hashes[place], place))[:count])


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
