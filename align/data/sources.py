"""Rows of a data set: files of several formats, folders, globs, what `datasets` saved, Hub ids."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from align.config.data_files import ALLOWED_OR_HUB, TEXT, format_of, named_places, near
from align.data.files import PlacedRow, Row, read_text_file
from align.data.folders import files_by_split
from align.data.hub_files import HubSet, downloaded, text_files
from align.data.tables import TableRows, is_saved, read_saved, read_table_file, saved_splits
from align.errors import InputError
from align.hub import cached_where_unreachable
from align.libraries import reason


class Part(NamedTuple):
    """Rows of one file of a split, or of what stands for one, and its name."""

    name: str
    rows: Sequence[Row]


SHOWN = 8  # most values that an error lists

datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise even a local file sends a request that counts downloads


def load_rows(
    path: str,  # a file, a folder, a glob of files or a Hub id; what exists as it stands is no glob
    *,
    key: str,  # the config key of `path`, named in errors
    split: str = "train",  # the only one of files; slices (`train[:1000]`) work everywhere
    split_key: str = "",  # the config key of `split`
    subset: str | None = None,  # the configuration of a Hub data set that has several
    folder: str | None = None,  # of a Hub data set that keeps several, apart from configurations
    revision: str | None = None,  # a branch, tag or commit of the Hub
) -> list[PlacedRow]:
    """Load all rows of one split, each with its place: the file, of several the one, and its number in it.

    Raises InputError for a missing path, unreadable content (with its line where known), an unknown split, or no rows.
    """
    places = named_places(key, path)
    if places is None:
        cached_where_unreachable()
    try:
        if places is None:
            rows = _read_hub(HubSet(path, subset, folder, revision), split, key, split_key)
        else:
            rows = _read_local(path, places, subset, split, key, split_key)
    except InputError:
        raise
    except Exception as error:  # `datasets` raises exceptions of many kinds
        raise _explained(error, path, places is None, subset, key, split, split_key) from error
    if not rows:
        raise InputError(key, path, f"data with rows (split {split} has none)")
    return rows


def unread_splits(path: str, key: str, subset: str | None, used: Iterable[str]) -> list[str]:
    """Name the splits of a folder on this machine that are in none of the `used` ones, which may be slices."""
    places = named_places(key, path)
    if places is None or not places[0].is_dir():
        return []
    folder, given = places[0], list(used)
    names = saved_splits(folder) if is_saved(folder) else list(files_by_split(folder, subset, key))
    return [name for name in names if not any(re.search(rf"\b{re.escape(name)}\b", own) for own in given)]


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


def _read_hub(wanted: HubSet, split: str, key: str, split_key: str) -> list[PlacedRow]:
    files = text_files(wanted)
    if files is not None:
        parts = {
            name: [
                Part(f"{wanted.path}/{at[2]}", _content(file, key))
                for at, file in zip(own, downloaded(own), strict=True)
            ]
            for name, own in ((name, own if name in split else []) for name, own in files.items())
        }
        return _rows_of(parts, split, key, split_key)
    if wanted.folder is not None and datasets.config.HF_HUB_OFFLINE:
        allowed = "null without a network: the cache of data sets does not tell them apart"
        raise InputError("data.folder", wanted.folder, allowed)
    cache = None
    if wanted.revision is not None:  # own cache: without a network `datasets` takes the revision that it read last
        own = hashlib.sha256(wanted.revision.encode()).hexdigest()[:16]
        cache = str(Path(datasets.config.HF_DATASETS_CACHE) / "revisions" / own)
    path, subset, folder, revision = wanted
    found = datasets.load_dataset(path, subset, data_dir=folder, split=split, revision=revision, cache_dir=cache)
    rows = TableRows(found.with_format("arrow")[:])[:]
    return [PlacedRow(row, path, number) for number, row in enumerate(rows, start=1)]


def _read_local(
    path: str, places: Sequence[Path], subset: str | None, split: str, key: str, split_key: str
) -> list[PlacedRow]:
    if places[0].is_dir():
        parts = _folder(places[0], subset, split, key)
    else:
        names = [path] if len(places) == 1 else map(str, places)  # of one file as the user writes it
        parts = {"train": [Part(name, _content(file, key)) for name, file in zip(names, places, strict=True)]}
    return _rows_of(parts, split, key, split_key)


def _rows_of(parts: Mapping[str, Sequence[Part]], split: str, key: str, split_key: str) -> list[PlacedRow]:
    """Take one split, maybe sliced; every row gets every column, None where its file or line has none."""
    sizes = {name: sum(len(part.rows) for part in own) for name, own in parts.items()}
    wanted = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    rows = [row for part in wanted for row in _between(parts[part.splitname], part.from_ or 0, part.to or 0)]
    if not rows and any(sizes.values()):
        raise InputError(split_key or key, split, f"data with rows (there are {sum(sizes.values())} in all)")
    columns = dict.fromkeys(name for row, *_ in rows for name in row)
    return [PlacedRow({name: row.get(name) for name in columns}, file, number) for row, file, number in rows]


def _folder(folder: Path, subset: str | None, split: str, key: str) -> dict[str, Sequence[Part]]:
    """Read a folder's splits, those alone that `split` may name."""
    if is_saved(folder):
        found = read_saved(folder)
        return {name: [Part(str(folder / name if len(found) > 1 else folder), own)] for name, own in found.items()}
    files = files_by_split(folder, subset, key)
    return {
        name: [Part(str(file), _content(file, key)) for file in own] if name in split else []
        for name, own in files.items()
    }


def _content(file: Path, key: str) -> Sequence[Row]:
    """Read a file's rows; raise InputError for one that is not well-formed."""
    form = format_of(file)
    if form in TEXT:
        return read_text_file(file, key)
    try:
        return read_table_file(file, key)
    except InputError:
        raise
    except Exception as error:  # of Arrow's many kinds
        raise InputError(key, str(file), f"a well-formed {form} file ({reason(error)})") from error


def _between(parts: Sequence[Part], start: int, stop: int) -> Iterator[tuple[Row, str, int]]:
    """Yield rows `start` to `stop` of parts that follow each other, each with its part and its number there."""
    for name, rows in parts:
        if start < len(rows) and stop > 0:
            first = max(0, start)
            yield from ((row, name, number) for number, row in enumerate(rows[first:stop], start=first + 1))
        start, stop = start - len(rows), stop - len(rows)


def _explained(
    error: Exception, path: str, hub: bool, subset: str | None, key: str, split: str, split_key: str
) -> InputError:
    why = reason(error)
    if "nknown split" in why or "nrecognized instruction" in why:
        return InputError(split_key or key, split, f"a split of {path}, maybe sliced ({why})")
    if "corresponds to no data" in why or isinstance(error, StopIteration):
        sliced = "[" in split and split_key
        return InputError(split_key if sliced else key, split if sliced else path, "data with rows (there are none)")
    if "BuilderConfig" in str(error) or "onfig name" in str(error):
        return InputError("data.subset", subset, f"a configuration of {path} ({why})")
    if hub:
        return InputError(key, path, f"a file or folder (there is none of this name{near(path)}) or a Hub id: {why}")
    return InputError(key, path, f"{ALLOWED_OR_HUB} that can be read ({why})")
