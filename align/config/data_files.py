"""Tell data files by their names, and what a path of data names: files, a folder, or a data set of the Hub."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from align.errors import InputError
from align.worlds import resolve

FORMATS = {  # extension, in any case -> format
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
TEXT = ("json", "csv")  # formats that may be compressed by gzip, which their names then say: .jsonl.gz
ALLOWED = "a .jsonl, .ndjson, .json, .csv (each also .gz), .parquet or .arrow file, a folder or glob of such files"
ALLOWED_OR_HUB = f"{ALLOWED}, or a Hub id"
GZIP = ".gz"
UNPACKED_BY = {  # extension of what is not read -> the program that unpacks it
    ".zst": "zstd -d",
    ".xz": "unxz",
    ".bz2": "bunzip2",
    ".zip": "unzip",
    ".tar": "tar -xf",
    ".tgz": "tar -xzf",
    ".7z": "7z x",
}


def format_of(file: str | Path) -> str | None:
    """Return the format that a file's name says; None where it says none that is read."""
    name = Path(str(file).lower())
    if name.suffix != GZIP:
        return FORMATS.get(name.suffix)
    inner = FORMATS.get(name.with_suffix("").suffix)
    return inner if inner in TEXT else None


def unpacking(file: str | Path) -> str | None:
    """Return the program that unpacks a file which is not read packed; None for names of other files."""
    name = Path(str(file).lower())
    if name.suffix != GZIP:
        return UNPACKED_BY.get(name.suffix)
    inner = name.with_suffix("").suffix
    return "tar -xzf" if inner == ".tar" else "gunzip" if inner in FORMATS and format_of(name) is None else None


def is_glob(path: str) -> bool:
    """Return whether a path that does not exist as it stands is a pattern of paths."""
    return glob.has_magic(path)


def matches(pattern: str) -> list[str]:
    """Return the paths that match a pattern, in order of their names; `**` stands for folders at any depth.

    Folders at its beginning that exist as they stand are literal.
    """
    path = Path(pattern)
    literal = next((head for head in path.parents if head.exists()), Path())
    return sorted(glob.glob(str(Path(glob.escape(str(literal))) / path.relative_to(literal)), recursive=True))


def named_places(key: str, path: str) -> list[Path] | None:
    """Return the folder, or the files, that `path` names; None where it can only be a Hub id. A literal path wins.

    Raises:
        InputError: Nothing is there, or a file that cannot be read: of another format, packed, or empty.
    """
    real = os.path.expanduser(resolve(path, key)) if path.strip() else path
    place = Path(real)
    if path.strip() and place.is_dir():
        return [place]
    if place.is_file():
        check_file(key, place)
        return [place]
    if is_glob(real):
        found = [Path(match) for match in matches(real)]
        if not found:
            raise InputError(key, path, f"{ALLOWED} (nothing matches)")
        for file in found:
            check_file(key, file)
        return found
    if _is_local(real):
        raise InputError(key, path, f"{ALLOWED_OR_HUB} (no such file or folder{near(real)})")
    return None


def check_file(key: str, file: Path) -> None:
    """Raise InputError where a file is none that can be read, by its name or for want of content."""
    if file.is_dir():
        raise InputError(key, str(file), "a glob of files alone (this is a folder)")
    program = unpacking(file)
    if program is not None:
        raise InputError(key, str(file), f"a file that is not packed: {program} {file.name}, then give what is inside")
    if format_of(file) is None:
        raise InputError(key, str(file), f"{ALLOWED} (extension {file.suffix or 'missing'})")
    if file.stat().st_size == 0:
        raise InputError(key, str(file), "a file that is not empty")


def near(path: str) -> str:
    """Name the data file that a path means which lacks its extension; nothing where there is none."""
    found = [f"{path}{suffix}" for suffix in _suffixes() if path.strip() and Path(f"{path}{suffix}").is_file()]
    return f"; there is {found[0]}" if found else ""


def _suffixes() -> Sequence[str]:
    return [*FORMATS, *(f"{suffix}{GZIP}" for suffix, name in FORMATS.items() if name in TEXT)]


def _is_local(path: str) -> bool:
    """Return whether a path where nothing exists is one of this machine, as no Hub id can be."""
    blank, named = not path.strip(), format_of(path) is not None or unpacking(path) is not None
    return blank or named or path[0] in "./~" or path[-1] == "/" or path.count("/") > 1
