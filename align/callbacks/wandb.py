"""Weights & Biases: a failure of tracking is reported once, and training goes on.

The only importer of wandb. Metrics carry their own axis (`step`), so that a resumed run, which repeats the steps after
its checkpoint, lands on the same x values. Credentials stay with the client: nothing here reads them.
"""

import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from align import metrics
from align.callbacks.base import Callback, RunInfo, Stopwatch
from align.config import TrackingConfig
from align.errors import first_line
from align.files import write_atomic

logger = logging.getLogger(__name__)

ID_FILE = "wandb_run.json"  # in the run's folder: the id under which a resumed run continues
COLUMNS = ("step", "prompt_id", "sample_index", "prompt", "response", "ended", "score", "parts", "token_rewards")


def run_id(folder: Path) -> str:
    """Return the run's id at Weights & Biases, made once and stored in its folder."""
    path = folder / ID_FILE
    if path.exists():
        return str(json.loads(path.read_text())["id"])
    name = secrets.token_hex(4)  # random, so that repeats of a run are runs of their own
    write_atomic(path, json.dumps({"id": name}) + "\n")
    return name


class WandbCallback(Callback):
    """Logs step records, evaluations (curves and summary) and a table of completions."""

    def __init__(self, config: TrackingConfig, *, timeout: float = 60.0) -> None:
        """`timeout` = most seconds to wait for a server at the start and at the end."""
        self._config = config
        self._timeout = timeout
        self._run: Any = None  # wandb.Run; None before the start and after a failure
        self._rows: list[list[Any]] = []  # completions since the last table
        self._clock = Stopwatch()
        self._resumed = False

    def on_run_start(self, run: RunInfo) -> None:
        self._clock, self._resumed = Stopwatch(), run.start_step > 0
        self._attempt(lambda: self._start(run), started=False)

    def on_rollout(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        if self._run is None:
            return
        for sample in samples:
            row = {"step": step, **sample, "parts": json.dumps(sample.get("parts", {}))}
            rewards = zip(sample.get("pieces", ()), sample.get("token_rewards", ()), strict=False)
            row["token_rewards"] = " ".join(f"{piece}({reward + 0.0:+.3g})" for piece, reward in rewards)
            self._rows.append([row.get(name) for name in COLUMNS])

    def on_step(self, record: Mapping[str, Any]) -> None:
        self._clock.record(record)
        self._attempt(lambda: self._run.log(dict(record)))

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        def log() -> None:
            figures = metrics.flatten(summary)
            if phase != "before" or not self._resumed:  # a resumed run has logged it already
                self._run.log({"step": step, "phase": phase, "seconds": self._clock.seconds(), **figures})
            if phase != "during":
                self._run.summary.update({f"{phase}/{n.removeprefix('eval/')}": v for n, v in figures.items()})
            self._table()

        self._attempt(log)

    def on_checkpoint(self, step: int, path: Path) -> None:
        self._attempt(self._table)

    def on_end(self, result: Mapping[str, Any]) -> None:
        self._finish(0)

    def on_failure(self, error: BaseException) -> None:
        self._finish(1)

    def _start(self, run: RunInfo) -> None:
        import wandb

        settings = wandb.Settings(
            init_timeout=self._timeout,
            login_timeout=self._timeout,
            finish_timeout=self._timeout,
            finish_timeout_raises=True,
            silent=True,
            console="off",  # console output may hold what should not leave the machine
            disable_code=True,
            disable_git=True,
        )
        self._run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            group=self._config.group,
            tags=self._config.tags,
            mode=self._config.mode.value,
            job_type=run.method,
            name=f"{run.method} {run.folder.name}",  # a job's folder alone is a number
            dir=run.folder,
            id=run_id(run.folder),
            resume="allow",
            config=dict(run.config),
            settings=settings,
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        for name, metric in metrics.METRICS.items():
            if metric.level == "evaluation" and not name.endswith("*"):
                self._run.define_metric(name, step_metric="step", summary="none")

    def _table(self) -> None:
        if self._rows:
            import wandb

            rows, self._rows = self._rows, []
            self._run.log({"step": rows[-1][0], "completions": wandb.Table(columns=list(COLUMNS), data=rows)})

    def _finish(self, exit_code: int) -> None:
        def finish() -> None:
            self._table()
            self._run.finish(exit_code=exit_code)

        self._attempt(finish)
        self._run = None

    def _attempt(self, action: Callable[[], None], *, started: bool = True) -> None:
        """Run `action` on a run that is `started`; a failure ends the tracking with one line, and nothing else."""
        if started and self._run is None:
            return
        try:
            action()
        except Exception as error:
            self._run = None
            self.failure = f"tracking: Weights & Biases failed ({_reason(error)})"
            logger.warning("%s; the run goes on without it", self.failure)


def _reason(error: Exception) -> str:
    """Return the error's first line, with the API key masked should the message carry it."""
    if isinstance(error, ModuleNotFoundError) and error.name == "wandb":
        return "it is not installed: pip install 'align[wandb]'"
    text = first_line(error)
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "***") if key else text
