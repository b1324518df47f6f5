"""Check that a path names data. Standard library only, so that a bad path is refused before slow imports."""

from __future__ import annotations

from pathlib import Path

from align.errors import InputError
from align.worlds import resolve

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}  # extension -> loader
ALLOWED = "a .jsonl, .json, .csv or .parquet file, a folder of such files, or a Hub id"


def existing_path(path: str, key: str) -> Path | None:
    """Return the file or folder that `path` names, or None where it can only be a Hub id.

    Raises:
        InputError: A file or folder that does not exist, is empty, or has an unknown extension; `key` is named.
    """
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
