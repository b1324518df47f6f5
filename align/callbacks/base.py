"""What a run tells the outside: hooks that a trainer calls, and that do nothing unless overridden.

Callbacks observe; they never change training. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run when it starts."""

    folder: Path
    config: Mapping[str, Any]  # the resolved composition as plain data
    method: str
    max_steps: int  # optimizer updates
    start_step: int  # 0, or the checkpoint's step where the run is resumed
    seed: int


class Sample(TypedDict):
    """A sampled response as it goes to completions.jsonl and the report."""

    prompt_id: int
    sample_index: int
    prompt: str
    response: str
    ended: bool
    score: float  # of the reward source, before any penalty
    parts: dict[str, float]
    pieces: list[str]  # text of each token; empty for special tokens
    token_rewards: list[float]  # per token, before the KL penalty
    kl: NotRequired[float]  # k1, nats per response


class Callback:
    """A listener; override the hooks of interest. Only the main process calls them."""

    def on_run_start(self, run: RunInfo) -> None:
        """Once, before anything else of the run. A resumed run has `run.start_step > 0`."""

    def on_rollout(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """After a rollout was scored. `step` is the first update that is made on it; `samples` are like `Sample`."""

    def on_step(self, record: Mapping[str, Any]) -> None:
        """After an update: `step`, `seconds`, `rollout`, `update` and metrics of `align.metrics`."""

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        """After an evaluation. `phase` is before, during or after (the end); `step` the updates made so far."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """After the checkpoint of `step` is whole on disk, which is the last thing that happens at a step."""

    def on_end(self, result: Mapping[str, Any]) -> None:
        """Once, when all files but the report are written. `result` may hold `before` and `after` (evaluation
        summaries) and `stopped` (why it ended early)."""

    def on_failure(self, error: BaseException) -> None:
        """Once, instead of `on_end`, where the run fails or is interrupted."""


class CallbackList(Callback):
    """Calls every callback in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_run_start(self, run: RunInfo) -> None:
        for callback in self.callbacks:
            callback.on_run_start(run)

    def on_rollout(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        for callback in self.callbacks:
            callback.on_rollout(step, samples)

    def on_step(self, record: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_step(record)

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_evaluation(phase, step, summary)

    def on_checkpoint(self, step: int, path: Path) -> None:
        for callback in self.callbacks:
            callback.on_checkpoint(step, path)

    def on_end(self, result: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_end(result)

    def on_failure(self, error: BaseException) -> None:
        """Every callback hears of the failure; one that fails itself is noted on `error`, which stays the error."""
        for callback in self.callbacks:
            try:
                callback.on_failure(error)
            except Exception as second:
                error.add_note(f"{type(callback).__name__} failed too: {second}")
