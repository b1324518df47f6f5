"""JSONL files of a run: log_history, <method>_metrics and completions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align import metrics
from align.callbacks.base import Callback, RunInfo, Stopwatch
from align.files import LineFile, keep_lines, read_lines

LOG_HISTORY = "log_history.jsonl"
COMPLETIONS = "completions.jsonl"
BAD_STEPS = "bad_steps.jsonl"  # written by the training loop


def metrics_file(method: str) -> str:
    """Return the name of the file with a method's step records."""
    return f"{method}_metrics.jsonl"


def truncate_to(folder: Path, method: str, step: int) -> None:
    """Cut a run's files back to the checkpoint of `step`; a half-written last line goes too.

    The evaluation at the end is dropped at any step, since a resumed run is not at its end.
    """

    def keep(record: dict[str, Any]) -> bool:
        return record["step"] <= step and record.get("phase") != "after"

    for name in (LOG_HISTORY, metrics_file(method), COMPLETIONS):
        keep_lines(folder / name, keep)
    # An event of step N happened after the checkpoint of step N was written.
    keep_lines(folder / BAD_STEPS, lambda record: record["step"] < step)


class JsonlCallback(Callback):
    """Writes every record as one whole line; cuts the files back first where a run is resumed."""

    def __init__(self, *, completions: bool = True) -> None:
        """Create the callback; `completions` = whether sampled responses are written as text."""
        self._completions = completions
        self._files: dict[str, LineFile] = {}
        self._steps = ""
        self._evaluated: set[tuple[str, int]] = set()  # phase and step of the evaluations on file
        self._clock = Stopwatch()

    def on_run_start(self, run: RunInfo) -> None:
        self._steps = metrics_file(run.method)
        truncate_to(run.folder, run.method, run.start_step)
        history = read_lines(run.folder / LOG_HISTORY)
        self._evaluated = {(r["phase"], r["step"]) for r in history if "phase" in r}
        self._files = {n: LineFile(run.folder / n) for n in (LOG_HISTORY, self._steps, COMPLETIONS)}
        self._clock = Stopwatch()

    def on_rollout(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        for sample in samples if self._completions else ():
            self._files[COMPLETIONS].append({"step": step, **sample})

    def on_step(self, record: Mapping[str, Any]) -> None:
        self._clock.record(record)
        self._files[LOG_HISTORY].append(record)
        self._files[self._steps].append(record)

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        if (phase, step) in self._evaluated:  # a resumed run that evaluates its start again
            return
        self._evaluated.add((phase, step))
        record = {"step": step, "phase": phase, "seconds": self._clock.seconds(), **metrics.flatten(summary)}
        self._files[LOG_HISTORY].append(record)

    def on_end(self, result: Mapping[str, Any]) -> None:
        self._close()

    def on_failure(self, error: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}
