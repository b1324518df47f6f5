"""Progress of a run on the console: a bar on a terminal, else a line every tenth of the run; and the closing table."""

import atexit
import math
import time
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from align import metrics
from align.callbacks.base import Callback, RunInfo
from align.numbers import clock, number

SHOWN = (
    ("reward/score_mean", "reward"),
    ("kl/per_response_k1", "KL"),
    ("reward_model/loss", "loss"),
    ("reward_model/accuracy", "accuracy"),
    ("reward_model/prefix_error", "squared error"),
    ("dpo/accuracy", "accuracy"),
)
MEASURED = (
    ("eval/reward/gold_mean", "gold reward"),
    ("eval/reward/proxy_mean", "proxy reward"),
    ("eval/preference/log_ratio/accuracy", "held-out accuracy"),
    ("eval/kl_per_response", "KL"),
)


class ProgressCallback(Callback):
    """Shows reward, KL (nats per response), elapsed and remaining time on stderr, and the closing table on stdout."""

    def __init__(self, console: Console | None = None, out: Console | None = None, *, stage: str = "") -> None:
        """`stage` names a model that is trained for a run: its lines begin with the name, and no table closes it."""
        self._stage = stage
        self._console = console or Console(stderr=True)
        self._out = out or Console()
        self._bar: Progress | None = None
        self._run: RunInfo | None = None
        self._started = 0.0
        self._training_since = 0.0  # without the evaluation at the start
        self._next_line = 0

    def on_run_start(self, run: RunInfo) -> None:
        self._run = run
        self._started = self._training_since = time.monotonic()
        self._next_line = run.start_step + 1
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                refresh_per_second=2,
                transient=True,
            )
            self._bar.add_task(self._stage or run.method, total=run.max_steps, completed=run.start_step, status="")
            self._bar.start()
            atexit.register(self._stop)  # restores the cursor however the process ends

    def on_step(self, record: Mapping[str, Any]) -> None:
        assert self._run is not None
        step, total = record["step"], self._steps_in_all(record)
        done = step - self._run.start_step
        now = time.monotonic()
        left = (now - self._training_since) / done * (total - step) if done > 0 else 0.0
        figures = "  ".join(f"{label} {number(record[name])}" for name, label in SHOWN if name in record)
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=step, total=total, status=f"{figures}  {clock(left)} left"
            )
        elif step >= self._next_line or step == total:
            elapsed, prefix = clock(now - self._started), f"{self._stage} " if self._stage else ""
            self._line(f"{prefix}step {step}/{total}  {figures}  {elapsed} elapsed, about {clock(left)} left")
            self._next_line = step + math.ceil(total / 10)

    def _steps_in_all(self, record: Mapping[str, Any]) -> int:
        """Estimate the number of steps: max_steps, or fewer where max_policy_tokens is spent first at this rate."""
        assert self._run is not None
        budget, tokens = self._run.config.get("max_policy_tokens"), record.get("tokens/policy")
        if not budget or not tokens:
            return self._run.max_steps
        return min(self._run.max_steps, math.ceil(record["step"] * budget / tokens))

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        if phase == "before":
            self._training_since = time.monotonic()
        flat = metrics.flatten(summary)
        figures = [f"{label} {number(flat[name])}" for name, label in MEASURED if name in flat]
        self._line(f"evaluation ({phase}, step {step}): {', '.join(figures)}")

    def on_end(self, result: Mapping[str, Any]) -> None:
        assert self._run is not None
        self._stop()
        if self._stage:
            return
        if result.get("before") and result.get("after"):
            self._out.print(before_after(result["before"], result["after"]))
        if result.get("stopped"):
            self._out.print(Text(f"stopped early: {result['stopped']}"))
        self._out.print(Text(f"run folder: {self._run.folder}"), soft_wrap=True)

    def on_failure(self, error: BaseException) -> None:
        self._stop()

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            atexit.unregister(self._stop)


def before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Build a table of the headline figures of two evaluation summaries; figures that neither has are left out."""
    table = _figures_table("before", "after", "change")
    figures = metrics.flatten(after)
    for name, label, old, new, change in metrics.headline(before, after):
        table.add_row(label, number(old), _with_interval(name, new, figures), number(change, signed=True))
    return table


def start_figures(start: Mapping[str, Any]) -> Table:
    """Build a table of the headline figures of one evaluation summary."""
    table = _figures_table("start model")
    figures = metrics.flatten(start)
    for name, label, value, _, _ in metrics.headline(start, {}):
        table.add_row(label, _with_interval(name, value, figures))
    return table


def _figures_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _with_interval(name: str, value: float | None, figures: Mapping[str, float]) -> str:
    ends = metrics.interval(name, figures)
    return number(value) + ("" if ends is None else f" [{number(ends[0])}, {number(ends[1])}]")
