"""Sources of training rows, and what a mixture takes of each: shares of the rows by weight."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from align.config import DataConfig, Shape
from align.data.files import Row
from align.data.read import Read
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
    shape: Shape = Shape.auto  # once it is recognised

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


def with_repeats(train: list[Read], sources: Sequence[Source]) -> list[Read]:
    """Repeat training rows of sources whose weight asks for more rows than there are; sorted by source in a mixture."""
    if not sources[0].name:
        return train
    mixed = list[Read]()
    for source in sources:
        own = [item for item in train if item.source == source.name]
        whole, more = divmod(round(len(own) * source.wanted / len(source.rows)), max(1, len(own)))
        again = set(lowest((item.row for item in own), more)) if more else set()
        mixed += [item for i, item in enumerate(own) for _ in range(whole + (i in again))]
    return mixed


def by_source(sources: Sequence[Source], train: Sequence[Read], held_out: Sequence[Read]) -> dict[str, dict[str, int]]:
    """Count the rows of each source on both sides, once all drops are done; nothing outside a mixture."""
    counts = {}
    for source in sources if sources[0].name else ():
        own = [id(item) for item in train if item.source == source.name]
        once, held = len(set(own)), sum(item.source == source.name for item in held_out)
        counts[source.name] = {
            "rows": source.given,
            "taken": len(source.rows),
            "train": once,
            "repeated": len(own) - once,
            "held_out": held,
            "dropped": len(source.rows) - once - held,
        }
    return counts


def note(sources: Sequence[Source], counts: Mapping[str, Mapping[str, int]]) -> str:
    """Say in a line the share that each source has of the training rows, and what became of its other rows."""
    rows = {name: own["train"] + own["repeated"] for name, own in counts.items()}
    total, parts = sum(rows.values()), []
    for source in sources:
        own = counts[source.name]
        again = f", {own['repeated']} of them repeats" if own["repeated"] else ""
        rest = f"{own['held_out']} held out, {own['dropped']} dropped"
        taken = f"{own['taken']} of {own['rows']} taken, {rest}: {source.place}"
        parts.append(f"{source.name} {rows[source.name] / total:.1%}, {rows[source.name]} rows{again} ({taken})")
    return f"mixture of {total} training rows: {'; '.join(parts)}"
