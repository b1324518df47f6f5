"""Rows of a data set through `datasets.load_dataset`: JSON, JSONL, CSV and Parquet files, folders, Hub ids."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from align.errors import InputError
from align.hub import cached_where_unreachable
from align.libraries import reason
from align.worlds import resolve

Row = dict[str, Any]
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
    text: Iterable[str] = (),  # columns that hold text even if it looks like numbers: a CSV file's `12` or `None`
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
            rows = _read_local(place, subset, split, text)
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
        for unknown in (value for value in values if value not in found):
            allowed = f"a value of that column: {', '.join(map(repr, found[:SHOWN]))}{more}"
            raise InputError(f"{key}.{column}", unknown, allowed)
    kept = [all(row.get(column) in values for column, values in wanted.items()) for row in rows]
    if not any(kept):
        raise InputError(key, dict(where), f"conditions that some row of {source} meets together")
    return kept


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


def _read_local(place: Path, subset: str | None, split: str, text: Iterable[str]) -> list[Row]:
    # A temporary cache: local files are read quickly, and a shared cache would keep a copy of each for good.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        if place.is_dir():
            return list(datasets.load_dataset(str(place), subset, split=split, cache_dir=cache))
        kind = FORMATS[place.suffix]
        options = {"keep_default_na": False, "converters": dict.fromkeys(text, str)} if kind == "csv" else {}
        return list(datasets.load_dataset(kind, data_files=str(place), split=split, cache_dir=cache, **options))


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
    kind = FORMATS[place.suffix]
    bad_line = _bad_json(place, path, key) if kind == "json" else None
    return bad_line or InputError(key, path, f"a well-formed {kind} file ({why})")


def _bad_json(place: Path, path: str, key: str) -> InputError | None:
    """Find the first line of a JSON file that is no row; the loader's own message counts from the start of a block."""
    try:
        text = place.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return InputError(key, path, f"UTF-8 text (byte {error.start} is not)")
    if place.suffix == ".json" and text.lstrip().startswith("["):
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            return InputError(f"{place.name}, line {error.lineno}", error.msg, "well-formed JSON")
        return None
    for number, line in enumerate(text.split("\n"), start=1):
        given = line[:60]
        try:
            row = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            row, given = None, f"{given} ({error.msg})"
        if not isinstance(row, dict):
            return InputError(f"{place.name}, line {number}", given, "one JSON object per line")
    return None
