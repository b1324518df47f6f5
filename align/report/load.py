"""Loading a run's folder for a report; files that a run has not (yet) written are empty."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from align.errors import InputError
from align.files import read_lines, read_object

SUMMARY = "summary.jsonl"  # of a sweep
DEPTH = 4  # folders below a given one in which runs are looked for


@dataclass(frozen=True)
class Run:
    """One run, read back from its folder."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    facts: Mapping[str, Any]  # run.json
    steps: list[dict[str, Any]]  # step records, in order
    evaluations: list[dict[str, Any]]  # evaluation records, in order
    evaluation: Mapping[str, Any]  # evaluation.json
    samples: dict[str, list[dict[str, Any]]]  # by phase

    @property
    def method(self) -> str:
        return str(at(self.config, "method", "name") or "run")

    def setting(self, *path: str) -> Any:
        return at(self.config, *path)


def load_run(folder: Path) -> Run:
    """Load a run's folder.

    Raises:
        InputError: `folder` is not a run's, or one of its files is invalid.
    """
    if not is_run(folder):
        raise InputError("report", str(folder), "the folder of a run (with config.yaml in it)")
    records = list(_lines(folder / "log_history.jsonl"))
    samples: dict[str, list[dict[str, Any]]] = {}
    for sample in _lines(folder / "evaluation_samples.jsonl"):
        samples.setdefault(sample["phase"], []).append(sample)
    return Run(
        name=folder.resolve().name,
        folder=folder,
        config=_config(folder / "config.yaml"),
        facts=_json(folder / "run.json"),
        steps=[r for r in records if "phase" not in r],
        evaluations=[r for r in records if "phase" in r],
        evaluation=_json(folder / "evaluation.json"),
        samples=samples,
    )


def is_run(folder: Path) -> bool:
    """Return whether `folder` is that of a run."""
    return (folder / "config.yaml").is_file()


def run_folders(folder: Path, *, none_is_fine: bool = False) -> list[Path]:
    """Find the runs in and below `folder`, in order of name; folders inside a run are skipped.

    Raises:
        InputError: There is no run, unless `none_is_fine`.
    """
    found = list(_below(folder, DEPTH)) if folder.is_dir() else []
    if not found and not none_is_fine:
        raise InputError("report", str(folder), "the folder of a run (with config.yaml in it) or of a sweep")
    return found


def sweep_records(folder: Path) -> list[dict[str, Any]]:
    """Load the records of a sweep's jobs (cli/sweep.py) by number; empty where `folder` is no finished sweep's."""
    return sorted(_lines(folder / SUMMARY), key=lambda record: record["job"])


def _below(folder: Path, depth: int) -> Iterable[Path]:
    if is_run(folder):
        yield folder
    elif depth:
        below = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for path in sorted(below, key=lambda path: (len(path.name), path.name)):  # 2 before 10
            yield from _below(path, depth - 1)


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    try:
        for record in read_lines(path):
            if not isinstance(record, dict):
                raise ValueError(f"{record!r} is no object")
            yield record
    except ValueError as error:
        raise InputError(str(path), str(error), "a JSON object on every line, as a run writes it") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(path), " ".join(str(error).split()), "the config.yaml of a run") from error
    return content if isinstance(content, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def at(tree: Any, *path: str) -> Any:
    """Return the value under a path of keys in nested mappings; None where the path ends early."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
