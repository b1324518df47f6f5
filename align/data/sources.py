"""Rows of a data set: files of several formats, folders, globs, what `datasets` saved, Hub ids."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from align.activity import Activity
from align.config.data_files import ALLOWED_OR_HUB, TEXT, format_of, named_places, near
from align.data.arrow import Store, StoreError
from align.data.cache import kept, parts_of
from align.data.files import Row, read_text_file
from align.data.folders import files_by_split
from align.data.hub_files import HubSet, downloaded, text_files
from align.data.stored_rows import JsonRows, Part, StoredRows, keep_rows, keep_table, reopened
from align.data.tables import TableRows, batches_of, is_saved, read_saved, table_file
from align.errors import InputError
from align.hub import cached_where_unreachable
from align.libraries import reason

_COUNTED_EVERY = 1000  # rows
SHOWN = 8  # most values that an error lists

datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise even a local file sends a request that counts downloads


@dataclass(frozen=True)
class Wanted:
    """What names the rows of one split of a data set."""

    path: str  # a file, a folder, a glob of files or a Hub id; what exists as it stands is no glob
    key: str  # the config key of `path`, named in errors
    split: str = "train"  # the only one of files; slices (`train[:1000]`) work everywhere
    split_key: str = ""  # the config key of `split`
    subset: str | None = None  # the configuration of a Hub data set that has several
    folder: str | None = None  # of a Hub data set that keeps several, apart from configurations
    revision: str | None = None  # a branch, tag or commit of the Hub


class Origin(NamedTuple):
    """A file of rows, or what stands for one, with its name in messages."""

    name: str
    content: Path | datasets.Dataset

    def files(self) -> list[Path]:
        """Return the files that hold it."""
        held = self.content
        return [held] if isinstance(held, Path) else [Path(file["filename"]) for file in held.cache_files]


@dataclass(frozen=True)
class Located:
    """Where the rows of one split are read from."""

    wanted: Wanted
    parts: Mapping[str, Sequence[Origin]]  # by split; empty where `wanted.split` does not name it
    in_folder: bool = False  # of this machine

    def files(self) -> list[Path]:
        """Return every file that is read."""
        return [file for own in self.parts.values() for origin in own for file in origin.files()]

    def unread(self, used: Sequence[str]) -> list[str]:
        """Name the splits of a folder that are in none of the `used` ones, which may be slices."""
        names = self.parts if self.in_folder else ()
        return [name for name in names if not any(re.search(rf"\b{re.escape(name)}\b", own) for own in used)]

    def stamps(self) -> list[tuple[int, int]]:
        """Return size and time of change of every file."""
        return [(found.st_size, found.st_mtime_ns) for found in (file.stat() for file in self.files())]

    def parts_of(self) -> dict[str, Any]:
        """Return all that decides on the rows."""
        splits = [[split, origin.name, len(origin.files())] for split, own in self.parts.items() for origin in own]
        return parts_of(self.files(), split=self.wanted.split, splits=splits)


def load_rows(path: str, **named: Any) -> StoredRows:
    """Load all rows of one split, named as `Wanted` says, into memory.

    Raises InputError for a missing path, unreadable content (with its line where known), an unknown split, or no rows.
    """
    return read_located(locate(Wanted(path, **named)))


def locate(wanted: Wanted) -> Located:
    """Find where rows are read from; what is on the Hub comes to this machine.

    Raises InputError for a missing path, unreadable content, or an unknown split.
    """
    places = named_places(wanted.key, wanted.path)
    if places is None:
        cached_where_unreachable()
    with _explained(wanted, hub=places is None):
        if places is None:
            return Located(wanted, _on_hub(wanted))
        return Located(wanted, _local(places, wanted), in_folder=places[0].is_dir())


def read_located(located: Located, activity: Activity | None = None, *, keep: bool = False) -> StoredRows:
    """Read rows: into memory, or to `keep` them into the cache, where they are found by the next one.

    Raises InputError for unreadable content (with its line where known), an unknown split, or no rows.
    """
    reading, before = activity or Activity(), located.stamps()
    if not keep:
        return _read(located, reading, None, before)
    reading.advance("looking for the rows in the cache")
    folder, facts = kept("rows", located.parts_of(), partial(_facts_read, located, reading, before))
    return reopened(Store(folder), facts)


def _facts_read(located: Located, activity: Activity, before: list[tuple[int, int]], folder: Path) -> dict[str, Any]:
    """Read rows into a folder."""
    return _read(located, activity, folder, before).facts()


def _read(located: Located, activity: Activity, folder: Path | None, before: list[tuple[int, int]]) -> StoredRows:
    wanted, store = located.wanted, Store(folder)
    with _explained(wanted, hub=False):
        parts = {n: [_kept(part, wanted.key, store, activity) for part in own] for n, own in located.parts.items()}
        rows = _rows_of(parts, wanted)
    if located.stamps() != before:
        raise InputError(wanted.key, wanted.path, "data that do not change while they are read")
    if not rows:
        raise InputError(wanted.key, wanted.path, f"data with rows (split {wanted.split} has none)")
    return rows


def matching(
    rows: Sequence[Row], where: Mapping[str, Any], key: str, source: str, beside: Sequence[Row] = ()
) -> list[bool]:
    """Return for each row whether every column of `where` holds its value, or one of its values.

    Without conditions every row is kept. Raises InputError for a column or a value that occurs in no row, or conditions
    that no row meets together; it names `key`, that of `where`, with the column behind it, `source`, the rows', and the
    column's values, with those of the rows `beside`, on the other side of the split.
    """
    if not where:
        return [True] * len(rows)
    if not rows:
        raise InputError(key, dict(where), f"{{}}: {source} leaves no rows there")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    wanted = {name: list(given) if isinstance(given, (list, tuple)) else [given] for name, given in where.items()}
    for column, values in wanted.items():
        if column not in columns:
            raise InputError(f"{key}.{column}", column, f"a column of {source}: {', '.join(columns)}")
        found = _values(rows, column)
        for unknown in (value for value in values if not any(_same(cell, value) for cell in found)):
            others = _values([*rows, *beside], column)
            if any(_same(cell, unknown) for cell in others):
                allowed = f"a value of that column on this side of the split: {_shown(found)}"
            else:
                allowed = f"a value of that column: {_shown(others)}"
            raise InputError(f"{key}.{column}", unknown, allowed)
    kept = [
        all(any(_same(row.get(column), value) for value in values) for column, values in wanted.items()) for row in rows
    ]
    if not any(kept):
        raise InputError(key, dict(where), f"conditions that some row of {source} meets together")
    return kept


def _values(rows: Sequence[Row], column: str) -> list[Any]:
    """Return the different values of a column, in order of first appearance."""
    return list({repr(row.get(column)): row.get(column) for row in rows}.values())


def _shown(values: Sequence[Any]) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return f"{', '.join(map(repr, values[:SHOWN]))}{more}"


def _same(cell: object, wanted: object) -> bool:
    """Return whether a cell holds a value; the cells of a CSV file are text, also of numbers, true and false."""
    if isinstance(cell, str) and isinstance(wanted, bool):
        return cell.lower() == str(wanted).lower()  # files write either case, and so do words of a command line
    return cell == wanted or (isinstance(cell, str) and not isinstance(wanted, str) and cell == str(wanted))


def _on_hub(wanted: Wanted) -> dict[str, Sequence[Origin]]:
    named = HubSet(wanted.path, wanted.subset, wanted.folder, wanted.revision)
    files = text_files(named)
    if files is not None:
        return {
            name: [Origin(f"{wanted.path}/{at[2]}", file) for at, file in zip(own, downloaded(own), strict=True)]
            for name, own in ((name, own if name in wanted.split else []) for name, own in files.items())
        }
    if wanted.folder is not None and datasets.config.HF_HUB_OFFLINE:
        allowed = "null without a network: the cache of data sets does not tell them apart"
        raise InputError("data.folder", wanted.folder, allowed)
    cache = None
    if wanted.revision is not None:  # own cache: without a network `datasets` takes the revision that it read last
        own = hashlib.sha256(wanted.revision.encode()).hexdigest()[:16]
        cache = str(Path(datasets.config.HF_DATASETS_CACHE) / "revisions" / own)
    path, subset, folder, revision = named
    found = datasets.load_dataset(path, subset, data_dir=folder, split=wanted.split, revision=revision, cache_dir=cache)
    return {wanted.split: [Origin(path, found)]}


def _local(places: Sequence[Path], wanted: Wanted) -> Mapping[str, Sequence[Origin]]:
    """Find a path's splits, those alone that `split` may name."""
    folder = places[0]
    if not folder.is_dir():
        names = [wanted.path] if len(places) == 1 else map(str, places)  # of one file as the user writes it
        return {"train": [Origin(name, file) for name, file in zip(names, places, strict=True)]}
    if is_saved(folder):
        found = read_saved(folder)
        named = {name: str(folder / name if len(found) > 1 else folder) for name in found}
        return {name: [Origin(named[name], one) for one in own] for name, own in found.items()}
    files = files_by_split(folder, wanted.subset, wanted.key)
    return {name: [Origin(str(f), f) for f in own] if name in wanted.split else [] for name, own in files.items()}


def _rows_of(parts: Mapping[str, Sequence[Part]], wanted: Wanted) -> StoredRows:
    """Take one split, maybe sliced."""
    if list(parts) == [wanted.split]:  # `datasets` has sliced it
        return StoredRows(parts[wanted.split])
    sizes = {name: sum(part.stop for part in own) for name, own in parts.items()}
    absolute = datasets.ReadInstruction.from_spec(wanted.split).to_absolute(sizes)
    taken = [part for one in absolute for part in _between(parts[one.splitname], one.from_ or 0, one.to or 0)]
    if not taken and any(sizes.values()):
        allowed = f"data with rows (there are {sum(sizes.values())} in all)"
        raise InputError(wanted.split_key or wanted.key, wanted.split, allowed)
    return StoredRows(taken)


def _between(parts: Sequence[Part], start: int, stop: int) -> Iterator[Part]:
    """Yield what rows `start` to `stop` are of parts that follow each other."""
    for part in parts:
        first, last = max(0, start), min(part.stop, stop)
        if first < last:
            yield part._replace(start=first, stop=last)
        start, stop = start - part.stop, stop - part.stop


def _kept(origin: Origin, key: str, store: Store, activity: Activity) -> Part:
    """Write the rows of a file to the store; raise InputError for one that is not well-formed."""
    name, part = store.new_name("rows"), origin.content
    rows: JsonRows | TableRows
    if isinstance(part, datasets.Dataset):
        rows = keep_table(store, name, batches_of(part))
    elif format_of(part) in TEXT:
        rows = keep_rows(store, name, _counted(read_text_file(part, key), activity))
    else:
        try:
            with table_file(part, key) as batches:
                rows = keep_table(store, name, batches)
        except (InputError, StoreError):
            raise
        except Exception as error:  # of Arrow's many kinds
            raise InputError(key, str(part), f"a well-formed {format_of(part)} file ({reason(error)})") from error
    return Part(name, rows, 0, len(rows), origin.name)


def _counted(rows: Iterable[Row], activity: Activity) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number % _COUNTED_EVERY == 0:
            activity.advance("reading the data", detail=f"{number} rows")
        yield row


@contextmanager
def _explained(wanted: Wanted, *, hub: bool) -> Iterator[None]:
    """Turn the exceptions of `datasets`, which are of many kinds, into InputError."""
    try:
        yield
    except (InputError, StoreError):
        raise
    except Exception as error:
        raise _explanation(error, wanted, hub) from error


def _explanation(error: Exception, wanted: Wanted, hub: bool) -> InputError:
    key, path, split, why = wanted.key, wanted.path, wanted.split, reason(error)
    if "nknown split" in why or "nrecognized instruction" in why:
        return InputError(wanted.split_key or key, split, f"a split of {path}, maybe sliced ({why})")
    if "corresponds to no data" in why or isinstance(error, StopIteration):
        sliced = "[" in split and wanted.split_key
        return InputError(sliced or key, split if sliced else path, "data with rows (there are none)")
    if "BuilderConfig" in str(error) or "onfig name" in str(error):
        return InputError("data.subset", wanted.subset, f"a configuration of {path} ({why})")
    if hub:
        return InputError(key, path, f"a file or folder (there is none of this name{near(path)}) or a Hub id: {why}")
    return InputError(key, path, f"{ALLOWED_OR_HUB} that can be read ({why})")
