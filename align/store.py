"""What is made once and used by many runs: folders named by the hash of all that they depend on.

They live under `$ALIGN_HOME` (default: `~/.cache/align`) and in the package's assets.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

ASSETS = Path(__file__).parent / "worlds" / "assets"
TRAINING = "training"  # folder inside one that is being made: all that a killed `make` hands to the next one


def home() -> Path:
    """Where stored things are kept on this machine."""
    return Path(os.environ.get("ALIGN_HOME") or Path.home() / ".cache" / "align").expanduser()


def key_of(parts: Mapping[str, Any]) -> str:
    """A short name for everything in `parts` (plain JSON data)."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()[:20]


def find(kind: str, parts: Mapping[str, Any]) -> Path | None:
    """The stored folder for `parts`, shipped with the package or made on this machine before."""
    key = key_of(parts)
    shipped = sorted(ASSETS.glob(f"*/{kind}/{key}"))
    made = home() / kind / key
    return shipped[0] if shipped else made if made.is_dir() else None


def find_or_make(kind: str, parts: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The stored folder for `parts`; `make(folder)` fills it where there is none yet.

    Jobs in parallel make it once: the others wait. What a killed `make` left is not found; the next one gets its
    TRAINING, which a finished folder does not hold, and nothing else of it.
    """
    found = find(kind, parts)
    if found is not None:
        return found
    folder = home() / kind / key_of(parts)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        partial = folder.with_name(f".{folder.name}.partial")
        partial.mkdir(exist_ok=True)
        for left in partial.iterdir():
            if left.name != TRAINING:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        make(partial)
        shutil.rmtree(partial / TRAINING, ignore_errors=True)
        os.replace(partial, folder)
    return folder
