"""TRL's log lines as step records of a run: one callback for all of TRL's trainers."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from align.activity import TRL_UPDATE
from align.algorithms.trl.metrics import NAMES, translate
from align.errors import RunError
from align.loop.context import RunContext
from align.metrics import Tally, lookup
from align.models.hardware import peak_memory_mib

ON_POLICY_LOSS = "policy/total_loss"  # which TRL divides by the number of micro-batches before it is seen here


class Records(TrainerCallback):
    """Hands each of TRL's steps to the run's callbacks, evaluates where the run asks for it, ends it at its budget.

    `rollout` receives what the reward function sees of a rollout.
    """

    def __init__(self, run: RunContext, place: Callable[[int], dict[str, int]], settled: Callable[[int], bool]) -> None:
        """From a step: `place`, its record's {"rollout", "update"}; `settled`, whether all sampled tokens were used."""
        self._run = run
        self._place = place
        self._settled = settled
        self._started = time.perf_counter()
        self._last = 0.0
        self._kept: dict[str, float] = {}  # of the rollout or the run so far: repeated until TRL logs them again
        self.rollout = Tally()
        self.step = 0
        self._parts = self._all_parts = 0  # micro-batches of the update under way
        self._figures: dict[str, float] = {}  # known of it
        self.stopped: str | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._parts, self._all_parts = 0, args.gradient_accumulation_steps
        self._figures = {"policy/learning_rate": kwargs["lr_scheduler"].get_last_lr()[0]}
        self._report()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._parts += 1
        self._report()

    def heard(self, compute_loss: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what a trainer's `compute_loss` gives, and report the loss of that micro-batch."""
        given = compute_loss(*args, **kwargs)
        name = NAMES[self._run.config.method.name]["loss"]
        if name != ON_POLICY_LOSS and self._run.activity.due:  # a GPU waits where its loss is read
            loss = given[0] if isinstance(given, tuple) else given
            self._figures[name] = float(loss.detach())
            self._report()
        return given

    def _report(self) -> None:
        """Report how far the update is; TRL's sampling happens inside of one, and reports nothing itself."""
        figures = self._figures | self.rollout.result()
        self._run.activity.advance(TRL_UPDATE, self._parts, self._all_parts, figures=figures)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """A step's record; then, as on our own loop, an evaluation.

        Raises:
            RunError: TRL applied an update whose loss or gradient was not finite.
        """
        if logs is None or "loss" not in logs:  # the summary at the end of training
            return
        for name in ("loss", "grad_norm"):
            scaled = args.fp16 and name == "grad_norm"  # a gradient scaler finds its scale by overflowing
            if not (scaled or math.isfinite(logs.get(name, 0.0))):
                raise RunError(f"TRL's {name} was not finite at step {state.global_step}")
        self.step = state.global_step
        record = self._record(logs)
        self._run.callbacks.on_step(record)
        config = self._run.config
        tokens, budget = record["tokens/policy"], config.max_policy_tokens
        if budget is not None and tokens >= budget and self._settled(self.step):
            self.stopped = f"{tokens:.0f} policy tokens reach max_policy_tokens={budget}"
            control.should_training_stop = True
        every = config.evaluation.every_steps
        if every and self.step % every == 0 and self.step < config.max_steps:
            self._evaluate()
        asked = self._run.callbacks.asked_to_stop
        if asked is not None and self.stopped is None:
            self.stopped = asked
            control.should_training_stop = True

    def _record(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        metrics = translate(logs, self._run.config.method.name)
        self._kept |= {name: value for name, value in metrics.items() if lookup(name).level != "update"}
        self._kept |= self.rollout.pop()
        now = time.perf_counter() - self._started
        record = {"step": self.step, "seconds": now, **self._place(self.step), **self._kept, **metrics}
        record["time/total"] = now - self._last
        record["memory/peak_mib"] = peak_memory_mib(self._run.roles.policy.device)
        self._last = now
        return record

    def _evaluate(self) -> None:
        model = self._run.roles.policy.model
        training = model.training
        model.eval()
        try:
            self._run.evaluate(self.step)
        finally:
            model.train(training)
