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
from align.files import content_hash, write_atomic
from align.store import find, find_or_make

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


def kept(kind: str, parts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """Return the folder for `parts` and its facts.

    Args:
        make: Fills an empty folder and returns the facts, as JSON has them. It is called where there is none yet, and
            where files of the one that is there are missing or have another size.
    """
    there = find(kind, parts)
    if there is not None and not _is_whole(there):
        shutil.rmtree(there)
    folder = find_or_make(kind, parts, _Making(make))
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return folder, facts["facts"]


class _Making:
    """Fills a folder, and empties it again where that fails."""

    def __init__(self, make: Callable[[Path], Mapping[str, Any]]) -> None:
        self._make = make

    def __call__(self, folder: Path) -> None:
        try:
            facts = self._make(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
        write_atomic(folder / _FACTS, json.dumps({"files": sizes, "facts": facts}))


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _FACTS).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


@cache
def _code() -> str:
    """Hash the modules that read and tokenise: what another version of them made is not taken for this one's."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted([*package.glob("data/*.py"), *package.glob("models/*.py"), package / "types.py"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()
