"""A run's folder as data for a report; whatever a run has not (yet) written is empty."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from align.errors import InputError
from align.files import read_lines


@dataclass(frozen=True)
class Run:
    """One run, read back from its folder."""

    name: str
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
        """A value of the configuration; None where it has none."""
        return at(self.config, *path)


def load_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        InputError: It is not one.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError("report", str(folder), "the folder of a run (with config.yaml in it)")
    records = list(read_lines(folder / "log_history.jsonl"))
    samples: dict[str, list[dict[str, Any]]] = {}
    for sample in read_lines(folder / "evaluation_samples.jsonl"):
        samples.setdefault(sample["phase"], []).append(sample)
    return Run(
        name=folder.resolve().name,
        config=yaml.safe_load((folder / "config.yaml").read_text()) or {},
        facts=_json(folder / "run.json"),
        steps=[r for r in records if "phase" not in r],
        evaluations=[r for r in records if "phase" in r],
        evaluation=_json(folder / "evaluation.json"),
        samples=samples,
    )


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def at(tree: Any, *path: str) -> Any:
    """What nested mappings hold under a path of keys; None where they end before."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
