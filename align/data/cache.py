"""Cache of what is read and tokenised of large data sets: folders named by the hash of all that they depend on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from align.config import Caching
from align.data.arrow import StoreError
from align.files import content_hash, write_atomic
from align.libraries import reason
from align.store import find_or_make, home, key_of

LARGE = 32 * 2**20  # bytes of the files of a data set, from which on `data.cache=auto` keeps it
_FACTS = "facts.json"
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "datasets")


def is_kept(caching: Caching, files: Sequence[Path]) -> bool:
    """Return whether what is made of these files goes to the cache."""
    if caching is not Caching.auto:
        return caching is Caching.always
    return sum(file.stat().st_size for file in files) >= LARGE


def parts_of(files: Sequence[Path], **others: Any) -> dict[str, Any]:
    """Return all that decides on what is made of these files: their content, `others`, this code and its libraries."""
    held = [[file.name, file.stat().st_size, content_hash(file)] for file in files]
    return {"files": held, "code": _code(), "libraries": [version(name) for name in _LIBRARIES], **others}


class Unkept(Exception):
    """A cache that cannot be written."""


def kept(kind: str, parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """Return the folder for `parts` and its facts.

    Args:
        make: Fills an empty folder and returns the facts, as JSON has them. It is called where there is none yet, and
            where files of the one that is there are missing or not what was written.

    Raises:
        Unkept: Nothing can be written there, or the disk is full.
    """
    try:
        folder = home() / kind / key_of(parts)
        facts = _facts(folder)
        if facts is None:
            if folder.exists():
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
            find_or_make(kind, parts, _Making(make))
            facts = _facts(folder)
    except (StoreError, OSError) as error:
        raise Unkept(f"{home()} ({reason(error)})") from error
    if facts is None:
        raise Unkept(f"{folder} (what was written there is not what is read)")
    return folder, facts


class _Making:
    """Fills a folder, and empties it again where that fails."""

    def __init__(self, make: Callable[[Path], Mapping[str, Any]]) -> None:
        self._make = make

    def __call__(self, folder: Path) -> None:
        try:
            facts = self._make(folder)
            files = {file.name: content_hash(file) for file in folder.iterdir()}
            write_atomic(folder / _FACTS, json.dumps({"files": files, "facts": facts, "hash": _hash(files, facts)}))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _hash(files: Any, facts: Any) -> str:
    return hashlib.sha256(json.dumps([files, facts], sort_keys=True).encode()).hexdigest()


def _facts(folder: Path) -> dict[str, Any] | None:
    """Return a folder's facts; None where they or the files are not as they were written."""
    try:
        held = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        files, facts = held["files"], held["facts"]
        whole = held["hash"] == _hash(files, facts)
        found: dict[str, Any] = facts
        return found if whole and all(content_hash(folder / name) == own for name, own in files.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@cache
def _code() -> str:
    """Hash the modules that read and tokenise: what another version of them made is not taken for this one's."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted([*package.glob("data/*.py"), *package.glob("models/*.py"), package / "types.py"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()
