"""Files of a run's evaluations: evaluation.json; samples, probes, pairs and demonstrations of evaluation_*.jsonl."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from align.evaluation.change import delta
from align.evaluation.intervals import Bootstrap
from align.evaluation.measure import EvaluationResult
from align.files import dumps, read_lines, read_object, write_atomic

EVALUATION = "evaluation.json"
SAMPLES = "evaluation_samples.jsonl"
PROBES = "evaluation_probes.jsonl"
PAIRS = "evaluation_pairs.jsonl"
DEMONSTRATIONS = "evaluation_demonstrations.jsonl"


def save_before(folder: Path, before: EvaluationResult, settings: Mapping[str, Any]) -> None:
    """Write the start model's evaluation, with `after` and `delta` null until `save_after`."""
    _save(folder, {"before": before}, {"after": None, "delta": None, "settings": dict(settings)})


def save_after(
    folder: Path, before: EvaluationResult, after: EvaluationResult, settings: Mapping[str, Any], interval: Bootstrap
) -> dict[str, Any]:
    """Write both evaluations, their differences with intervals, and the settings; return what evaluation.json holds."""
    change = delta(before, after, interval)
    return _save(folder, {"before": before, "after": after}, {"delta": change, "settings": dict(settings)})


def load_before(folder: Path) -> EvaluationResult | None:
    """Load the start model's evaluation of an interrupted run; None where it was not reached."""
    path = folder / EVALUATION
    if not path.exists():
        return None
    samples, probes, pairs, demonstrations = (
        [row for row in read_lines(folder / name) if row.pop("phase") == "before"]
        for name in (SAMPLES, PROBES, PAIRS, DEMONSTRATIONS)
    )
    return EvaluationResult(read_object(path, before=dict)["before"], samples, probes, pairs, demonstrations)


def _save(folder: Path, phases: Mapping[str, EvaluationResult], more: Mapping[str, Any]) -> dict[str, Any]:
    """Write the samples of every phase, what else some of them have, and evaluation.json."""
    _write_lines(folder / SAMPLES, {phase: result.samples for phase, result in phases.items()})
    if any(result.probes for result in phases.values()):
        _write_lines(folder / PROBES, {phase: result.probes for phase, result in phases.items()})
    if any(result.pairs for result in phases.values()):
        _write_lines(folder / PAIRS, {phase: result.pairs for phase, result in phases.items()})
    if any(result.demonstrations for result in phases.values()):
        _write_lines(folder / DEMONSTRATIONS, {phase: result.demonstrations for phase, result in phases.items()})
    content = {phase: result.summary for phase, result in phases.items()} | dict(more)
    write_atomic(folder / EVALUATION, dumps(content, indent=2) + "\n")
    return content


def _write_lines(path: Path, phases: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    lines = (dumps({"phase": phase, **row}) + "\n" for phase, rows in phases.items() for row in rows)
    write_atomic(path, "".join(lines))
