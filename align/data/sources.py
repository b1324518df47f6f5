"""Rows of a data set through `datasets.load_dataset`: JSON, JSONL, CSV and Parquet files, folders, Hub ids."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from align.data.files import Row, read_files
from align.errors import InputError
from align.hub import cached_where_unreachable
from align.libraries import reason
from align.worlds import resolve

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}  # extension -> loader
ALLOWED = "a .jsonl, .json, .csv or .parquet file, a folder of such files, or a Hub id"
SHOWN = 8  # most values that an error lists

datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise even a local file sends a request that counts downloads


def load_rows(
    path: str,  # a file, a folder or a Hub id
    *,
    key: str,  # the config key of `path`, named in errors
    split: str = "train",  # the only one of a file; slices (`train[:1000]`) work everywhere
    split_key: str = "",  # the config key of `split`
    subset: str | None = None,  # the configuration of a Hub data set that has several
    folder: str | None = None,  # of a Hub data set that keeps several, apart from configurations
    revision: str | None = None,  # a branch, tag or commit of the Hub
) -> list[Row]:
    """Load all rows of one split.

    Raises InputError for a missing path, unreadable content (with its line where known), an unknown split, or no rows.
    """
    place = _existing_path(path, key)
    if place is None:
        cached_where_unreachable()
    try:
        if place is None:
            rows = _read_hub(path, subset, folder, revision, split)
        else:
            rows = _read_local(place, subset, split, key, split_key)
    except InputError:
        raise
    except Exception as error:  # each format raises its reader's own exceptions
        raise _explained(error, path, place, subset, key, split, split_key) from error
    if not rows:
        raise InputError(key, path, f"data with rows (split {split} has none)")
    return rows


def matching(rows: Sequence[Row], where: Mapping[str, Any], key: str, source: str) -> list[bool]:
    """Return for each row whether every column of `where` holds its value, or one of its values.

    Without conditions every row is kept. Raises InputError for a column or a value that occurs in no row, or conditions
    that no row meets together; it names `key`, that of `where`, with the column behind it, and `source`, the rows'.
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
        found = list({repr(row.get(column)): row.get(column) for row in rows}.values())
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        for unknown in (value for value in values if not any(_same(cell, value) for cell in found)):
            allowed = f"a value of that column: {', '.join(map(repr, found[:SHOWN]))}{more}"
            raise InputError(f"{key}.{column}", unknown, allowed)
    kept = [
        all(any(_same(row.get(column), value) for value in values) for column, values in wanted.items()) for row in rows
    ]
    if not any(kept):
        raise InputError(key, dict(where), f"conditions that some row of {source} meets together")
    return kept


def _same(cell: object, wanted: object) -> bool:
    """Return whether a cell holds a value; the cells of a CSV file are text, also of numbers."""
    return cell == wanted or (isinstance(cell, str) and not isinstance(wanted, str) and cell == str(wanted))


def _existing_path(path: str, key: str) -> Path | None:
    """Return the file or folder that `path` names, or None where it can only be a Hub id."""
    place = Path(resolve(path, key)).expanduser()
    if path.strip() and place.is_dir():
        if not any(file.suffix in FORMATS for file in place.rglob("*")):
            raise InputError(key, path, f"{ALLOWED} (this folder has no such file)")
        return place
    if place.is_file():
        if place.suffix not in FORMATS:
            raise InputError(key, path, f"{ALLOWED} (extension {place.suffix or 'missing'})")
        if place.stat().st_size == 0:
            raise InputError(key, path, "a file that is not empty")
        return place
    if place.suffix in FORMATS or path.startswith((".", "/", "~")) or path.count("/") > 1 or not path.strip():
        raise InputError(key, path, f"{ALLOWED} (no such file or folder)")
    return None


def _read_hub(path: str, subset: str | None, folder: str | None, revision: str | None, split: str) -> list[Row]:
    if folder is not None and datasets.config.HF_HUB_OFFLINE:
        allowed = "null without a network: the cache of data sets does not tell them apart"
        raise InputError("data.folder", folder, allowed)
    cache = None
    if revision is not None:  # own cache: without a network `datasets` takes the revision that it read last
        own = hashlib.sha256(revision.encode()).hexdigest()[:16]
        cache = str(Path(datasets.config.HF_DATASETS_CACHE) / "revisions" / own)
    return list(datasets.load_dataset(path, subset, data_dir=folder, split=split, revision=revision, cache_dir=cache))


def _read_local(place: Path, subset: str | None, split: str, key: str, split_key: str) -> list[Row]:
    # A temporary cache: local files are read quickly, and a shared cache would keep a copy of each for good.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        if place.is_file() and FORMATS[place.suffix] == "parquet":
            return list(datasets.load_dataset("parquet", data_files=str(place), split=split, cache_dir=cache))
        files = {"train": [place]} if place.is_file() else _files(place, subset, cache)
        if files is None:
            return list(datasets.load_dataset(str(place), subset, split=split, cache_dir=cache))
        read = {name: read_files(own, key) for name, own in files.items() if name in split}
        wanted = datasets.ReadInstruction.from_spec(split).to_absolute({name: len(rows) for name, rows in read.items()})
        rows = [row for part in wanted for row in read[part.splitname][part.from_ : part.to]]
        if not rows and any(read.values()):
            raise InputError(
                split_key or key, split, f"data with rows (there are {sum(map(len, read.values()))} in all)"
            )
        return rows


def _files(folder: Path, subset: str | None, cache: str) -> dict[str, list[Path]] | None:
    """Find a folder's files by split, as `datasets` does; None where some are neither JSON nor CSV."""
    found = datasets.load_dataset_builder(str(folder), subset, cache_dir=cache).config.data_files or {}
    files = {str(split): [Path(file) for file in own] for split, own in found.items()}
    read = all(FORMATS.get(file.suffix) in ("json", "csv") for own in files.values() for file in own)
    return files if read else None


def _explained(
    error: Exception, path: str, place: Path | None, subset: str | None, key: str, split: str, split_key: str
) -> InputError:
    why = reason(error)
    if "nknown split" in why or "nrecognized instruction" in why:
        return InputError(split_key or key, split, f"a split of {path}, maybe sliced ({why})")
    if "corresponds to no data" in why or isinstance(error, StopIteration):
        sliced = "[" in split and split_key
        return InputError(split_key if sliced else key, split if sliced else path, "data with rows (there are none)")
    if "BuilderConfig" in str(error) or "onfig name" in str(error):
        return InputError("data.subset", subset, f"a configuration of {path} ({why})")
    if place is None or place.is_dir():
        return InputError(key, path, f"{ALLOWED} that can be read ({why})")
    return InputError(key, path, f"a well-formed {FORMATS[place.suffix]} file ({why})")
