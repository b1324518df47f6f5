"""Progress of a run on the console: its display's bar or lines, a line for every evaluation, and the closing table."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align import metrics
from align.callbacks.base import Callback, RunInfo
from align.callbacks.display import Display
from align.callbacks.training import Training, samples, updates_per_rollout
from align.errors import STYLES, Verdict
from align.numbers import clock, number

_PACED = 2  # updates after which the length of the whole training can be told
MEASURED = (
    ("eval/reward/gold_mean", "gold reward"),
    ("eval/reward/proxy_mean", "proxy reward"),
    ("eval/preference/log_ratio/accuracy", "held-out accuracy"),
    ("eval/kl_per_response", "KL"),
)

START = (("eval/reward/proxy_mean", "reward"), ("eval/kl_per_response", "KL"))  # of a method that samples


class ProgressCallback(Callback):
    """Shows the figures, elapsed and remaining time of a training on stderr, and the closing table on stdout."""

    def __init__(self, display: Display | None = None, out: Console | None = None, *, stage: str = "") -> None:
        """`stage` names a model that is trained for a run: its lines begin with the name, and no table closes it."""
        self._stage = stage
        self._display = display or Display()
        self._out = out or Console()
        self._run: RunInfo | None = None
        self._training: Training | None = None
        self._next_line = 0

    def on_run_start(self, run: RunInfo) -> None:
        self._run = run
        self._next_line = run.start_step + 1
        self._display.start()
        if self._stage:
            self._begin(run)

    def _begin(self, run: RunInfo, measured: str = "") -> Training:
        name = self._stage or ("" if not self._display.live else run.method)
        self._training = Training(
            name,
            start=run.start_step,
            total=run.max_steps,
            now=self._display.now,
            updates_per_rollout=updates_per_rollout(run.config),
            measured=measured if samples(run.config) else "",
        )
        if run.max_steps:
            self._display.begin(self._training)
        return self._training

    def on_step(self, record: Mapping[str, Any]) -> None:
        assert self._run is not None
        training = self._training or self._begin(self._run)  # where nothing was evaluated before
        display, step = self._display, record["step"]
        training.record(record, display.now, self._steps_in_all(record))
        display.activity.idle()
        if not display.live and (step >= self._next_line or step == training.total):
            display.line(f"{display.head(training)}  {display.times(training)}")
            self._next_line = step + math.ceil(training.total / 10)
        if training.done == _PACED and step < training.total:
            whole = display.now - training.since + (training.seconds_left(display.now) or 0.0)
            name = f"the {self._stage}" if self._stage else "training"
            display.line(f"{name} will take about {clock(whole)} in all")
        display.refresh()

    def _steps_in_all(self, record: Mapping[str, Any]) -> int:
        """Estimate the number of steps: max_steps, or fewer where max_policy_tokens is spent first at this rate."""
        assert self._run is not None
        budget, tokens = self._run.config.get("max_policy_tokens"), record.get("tokens/policy")
        if not budget or not tokens:
            return self._run.max_steps
        return min(self._run.max_steps, math.ceil(record["step"] * budget / tokens))

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        assert self._run is not None
        flat = metrics.flatten(summary)
        figures = [f"{label} {number(flat[name])}" for name, label in MEASURED if name in flat]
        self._display.line(f"evaluation ({phase}, step {step}): {', '.join(figures)}")
        if phase == "before":
            start = [f"{label} {number(flat[name])}" for name, label in START if name in flat]
            # The seconds of the evaluation are none of the training's.
            self._begin(self._run, f"start model: {'  '.join(start)}" if start else "")

    def on_end(self, result: Mapping[str, Any]) -> None:
        assert self._run is not None
        self._display.end()
        if self._stage:
            return
        self._display.stop()
        if result.get("before") and result.get("after"):
            self._out.print(before_after(result["before"], result["after"]))
        if result.get("stopped"):
            self._out.print(Text(f"stopped early: {result['stopped']}"))
        self._out.print(Text(f"run folder: {self._run.folder}"), soft_wrap=True)
        show_verdicts(result.get("verdicts", ()), self._out)

    def on_failure(self, error: BaseException) -> None:
        self._display.stop()


def before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """Build a table of the headline figures of two evaluation summaries; figures that neither has are left out."""
    table = _figures_table("before", "after", "change")
    figures = metrics.flatten(after)
    for name, label, old, new, change in metrics.headline(before, after):
        table.add_row(label, number(old), _with_interval(name, new, figures), number(change, signed=True))
    return table


def show_verdicts(found: Iterable[Mapping[str, Any]], console: Console) -> None:
    """Print what went wrong, a line each, in the colour of its level."""
    for verdict in (Verdict(**one) for one in found):
        console.print(Text(verdict.line, style=STYLES[verdict.level]), soft_wrap=True)


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
