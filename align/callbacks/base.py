"""Callbacks: hooks that the training loop calls, and that do nothing unless overridden.

Callbacks observe; they never change training. Imports no torch.
"""

import copy
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any, NotRequired, TypedDict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """Facts of a run that are known when it starts."""

    folder: Path
    config: Mapping[str, Any]  # the resolved composition as plain data
    method: str
    max_steps: int  # optimizer updates
    start_step: int  # 0, or the checkpoint's step where the run is resumed
    seed: int


class Sample(TypedDict):
    """A sampled response as it is written to completions.jsonl and shown in the report."""

    prompt_id: int
    sample_index: int
    prompt: str
    response: str
    ended: bool
    score: float | None  # of the reward source, before any penalty; None where it does not apply
    parts: dict[str, float | None]
    pieces: list[str]  # text of each token; empty for special tokens
    token_rewards: list[float]  # per token, before the KL penalty
    extra: NotRequired[dict[str, Any]]  # what a reward function noted beside the response
    kl: NotRequired[float]  # k1, nats per response; where the rollout had a forward pass of the policy


class Stopwatch:
    """Seconds of a run between two step records: the last record's, plus the time since."""

    def __init__(self) -> None:
        self._seconds, self._at = 0.0, time.monotonic()

    def record(self, record: Mapping[str, Any]) -> None:
        """Set the watch by a step record."""
        self._seconds, self._at = record["seconds"], time.monotonic()

    def seconds(self) -> float:
        """Return the `seconds` of an evaluation's record."""
        return round(self._seconds + time.monotonic() - self._at, 3)


class Callback:
    """Base of all callbacks; override the hooks of interest. Only the main process calls them.

    A callback may end the run by setting `stop` to a reason: the run then ends after the current step, is evaluated,
    saved, and reports the reason.
    """

    stop: str | None = None
    failure: str | None = None  # a line on a failed callback whose run went on

    def keeps(self, step: int) -> bool:
        """Return whether the checkpoint of `step` must stay on disk when newer ones would replace it."""
        return False

    def on_run_start(self, run: RunInfo) -> None:
        """Handle the start of a run, once, before anything else of it. A resumed run has `run.start_step > 0`."""

    def on_rollout(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Handle a scored rollout: `step` is the first update on it, `samples` are like `Sample`."""

    def on_step(self, record: Mapping[str, Any]) -> None:
        """Handle an update: `step`, `seconds`, `rollout`, `update` and metrics of `align.metrics`."""

    def on_evaluation(self, phase: str, step: int, summary: Mapping[str, Any]) -> None:
        """Handle an evaluation. `phase` is before, during or after (the end); `step` counts the updates so far."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Handle the checkpoint of `step`, whole on disk: the last hook of a step."""

    def on_end(self, result: Mapping[str, Any]) -> None:
        """Handle the end of the run, once, when all files but the report are written.

        `result` may hold `before` and `after` (evaluation summaries), `stopped` (the reason of an early end) and
        `verdicts` (what went wrong: level, what, figure, key).
        """

    def on_failure(self, error: BaseException) -> None:
        """Handle a failure or an interrupt of the run, once, instead of `on_end`."""


class Guest(Callback):
    """A callback of foreign code: where it raises, one line reports it, and the run goes on without it."""

    def __init__(self, name: str, callback: Callback) -> None:
        self.name = name
        self._callback = callback

    @property
    def stop(self) -> str | None:  # type: ignore[override]
        return None if self.failure else self._callback.stop

    def keeps(self, step: int) -> bool:
        return bool(self._call("keeps", step))

    def _call(self, hook: str, *arguments: Any) -> Any:
        """Call the guest's own hook; nothing once it has failed."""
        if self.failure is not None:
            return None
        try:
            # Copies, so that a guest cannot change what others see.
            given = (copy.deepcopy(a) if isinstance(a, (dict, list)) else a for a in arguments)
            return getattr(self._callback, hook)(*given)
        except Exception as error:
            reason = (str(error).strip() or "no message").splitlines()[0]
            self.failure = f"{self.name} failed in {hook} ({type(error).__name__}: {reason})"
            logger.warning("%s; the run goes on without it", self.failure)
            logger.debug("where it failed", exc_info=error)
            return None


class CallbackList(Callback):
    """A list of callbacks, called in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    @property
    def asked_to_stop(self) -> str | None:
        """Return the first callback's reason to end the run; None without one."""
        return next((callback.stop for callback in self.callbacks if callback.stop is not None), None)

    def keeps(self, step: int) -> bool:
        return any(callback.keeps(step) for callback in self.callbacks)

    @property
    def failures(self) -> list[str]:
        return [callback.failure for callback in self.callbacks if callback.failure]

    def _call_all(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)

    def on_failure(self, error: BaseException) -> None:
        """Call every callback; one that fails itself is noted on `error`, which stays the error of the run."""
        for callback in self.callbacks:
            try:
                callback.on_failure(error)
            except Exception as second:
                error.add_note(f"{type(callback).__name__} failed too: {second}")


for _hook in [name for name in vars(Callback) if name.startswith("on_")]:
    setattr(Guest, _hook, partialmethod(Guest._call, _hook))
    if _hook not in vars(CallbackList):
        setattr(CallbackList, _hook, partialmethod(CallbackList._call_all, _hook))
