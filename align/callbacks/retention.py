"""Retention of checkpoints beside the newest: every N-th, and the best by a figure of the evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align import metrics
from align.callbacks.base import Callback, RunInfo
from align.callbacks.jsonl import LOG_HISTORY
from align.config.callbacks import RetentionConfig
from align.files import dumps, read_lines, write_atomic

BEST = "best_checkpoint.json"  # in the run's folder


class RetentionCallback(Callback):
    """Keeps checkpoints beside the newest `checkpoint.keep`; `best_checkpoint.json` names the best."""

    def __init__(self, config: RetentionConfig) -> None:
        self._config = config
        self._run: RunInfo | None = None
        self._figures: dict[int, float] = {}  # by step
        self._best: int | None = None  # step of the best checkpoint on disk

    def on_run_start(self, run: RunInfo) -> None:
        self._run = run
        for record in read_lines(run.folder / LOG_HISTORY) if run.start_step else ():
            if "phase" in record:
                self._note(record["step"], record.get(str(self._config.best)))
                self._settle(record["step"])

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        self._note(step, metrics.flatten(summary).get(str(self._config.best)))
        self._settle(step)

    def on_checkpoint(self, step: int, path: Path) -> None:
        self._settle(step)

    def keeps(self, step: int) -> bool:
        every = self._config.every
        return step == self._best or (every is not None and step % every == 0)

    def _note(self, step: int, value: float | None) -> None:
        if value is not None and value == value:
            self._figures[step] = value

    def _settle(self, step: int) -> None:
        """Make the checkpoint of `step` the best where it is evaluated, on disk, and better."""
        assert self._run is not None
        folder = self._run.folder / f"{self._run.method}_step_{step}"
        if self._config.best is None or step not in self._figures or not folder.is_dir():
            return
        new, old = self._figures[step], self._figures.get(self._best) if self._best is not None else None
        if old is None or (new < old if self._config.lowest else new > old):
            self._best = step
            found = {"step": step, "folder": folder.name, "metric": self._config.best, "value": new}
            write_atomic(self._run.folder / BEST, dumps(found, indent=2) + "\n")
