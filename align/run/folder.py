"""The folder of a new run: refused where it holds another run, which `overwrite=true` moves aside. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from align.errors import InputError

ERROR_FILE = "error.txt"  # the traceback of a run that failed
_LEFT = ("log_history.jsonl", "evaluation*", "*_step_*", "model")  # what only a run that got somewhere leaves


def claim(folder: Path, *, overwrite: bool, key: str = "hydra.run.dir", sweep: bool = False) -> str | None:
    """Check that `folder` holds no run (a sweep's folder: none of its jobs'), or move what it holds aside.

    A run that failed before it had measured or trained anything does not count.

    Returns:
        A line that says where the former content is now; None where nothing was moved.

    Raises:
        InputError: The folder, named by `key`, holds a run, and `overwrite` is false.
    """
    found = sorted(folder.glob("*/config.yaml" if sweep else "config.yaml"))
    held = next((file.parent for file in found if _matters(file.parent)), None)
    if held is None:
        return None
    if not overwrite:
        goes_on = f"resume={folder} goes on with it, " if held == folder else ""
        allowed = f"a folder without a run (it holds {_described(held)}: {goes_on}overwrite=true moves it aside)"
        raise InputError(key, str(folder), allowed)
    aside = _free(folder)
    folder.rename(aside)
    folder.mkdir()
    return f"moved what {folder} held to {aside}"


def _matters(run: Path) -> bool:
    left = any(found for pattern in _LEFT for found in run.glob(pattern))
    return left or _facts(run).get("status") != "failed"


def _described(run: Path) -> str:
    facts = _facts(run)
    started = f" of {facts['started']}" if "started" in facts else ""
    return f"a run{started}, {facts.get('status', 'without run.json')}"


def _facts(run: Path) -> dict[str, Any]:
    try:
        facts = json.loads((run / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _free(folder: Path) -> Path:
    """Return the first of folder.1, folder.2, … that does not exist."""
    folder = folder.resolve()
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return aside
