"""Early stopping: KL above a limit, or a reward that falls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from align import metrics
from align.callbacks.base import Callback, RunInfo
from align.callbacks.jsonl import LOG_HISTORY
from align.config.callbacks import EarlyStoppingConfig
from align.files import read_lines
from align.numbers import number

KL, REWARD = "kl/per_response_k1", "reward/score_mean"  # of rollouts
HELD_OUT = {KL: "eval/kl_per_response", REWARD: "eval/reward/proxy_mean"}  # for methods without rollouts


@dataclass
class _Series:
    """Moving mean of one figure over `window` values."""

    window: int
    values: list[float] = field(default_factory=list)
    best: float | None = None  # highest mean so far

    def add(self, value: float) -> float | None:
        """Add a value and return the mean of the newest `window` values; None before there are as many."""
        self.values = [*self.values, value][-self.window :]
        if len(self.values) < self.window:
            return None
        mean = sum(self.values) / self.window
        self.best = mean if self.best is None else max(self.best, mean)
        return mean


class EarlyStoppingCallback(Callback):
    """Sets `stop` when the mean of the newest `window` rollouts (else evaluations) passes a limit.

    A resumed run restores the means from the records on disk.
    """

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self._config = config
        self._series = {name: _Series(config.window) for name in (KL, REWARD)}
        self._rollouts: frozenset[str] = frozenset()  # figures that the method's step records hold
        self._last = -1  # rollout that was counted last

    def on_run_start(self, run: RunInfo) -> None:
        self._rollouts = frozenset(name for name in (KL, REWARD) if run.method in metrics.METRICS[name].methods)
        for record in read_lines(run.folder / LOG_HISTORY) if run.start_step else ():
            if "phase" not in record:
                self.on_step(record)
            elif record["phase"] == "during":
                self._judge(record, from_evaluation=True)

    def on_step(self, record: Mapping[str, Any]) -> None:
        if record["rollout"] != self._last:
            self._last = record["rollout"]
            self._judge(record, from_evaluation=False)

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        if phase == "during":
            self._judge(metrics.flatten(summary), from_evaluation=True)

    def _judge(self, figures: Mapping[str, Any], *, from_evaluation: bool) -> None:
        unit = "evaluations" if from_evaluation else "rollouts"
        window = self._config.window
        for name, series in self._series.items():
            if from_evaluation == (name in self._rollouts):
                continue
            value = figures.get(HELD_OUT[name] if from_evaluation else name)
            mean = series.add(value) if value is not None and value == value else None
            if mean is None or self.stop is not None:
                continue
            limit, drop = self._config.kl_above, self._config.reward_drop
            if name == KL and limit is not None and mean > limit:
                what = f"KL of {number(mean)} nats per response, mean of {window} {unit}, is above"
                self.stop = f"{what} callbacks.early_stopping.kl_above={limit:g}"
            if name == REWARD and drop is not None and series.best is not None and series.best - mean > drop:
                what = f"reward of {number(mean)}, mean of {window} {unit}, has fallen from {number(series.best)}"
                self.stop = f"{what} by more than callbacks.early_stopping.reward_drop={drop:g}"
