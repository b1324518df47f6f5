"""The training loop of everything that learns: minibatches, updates, records, evaluations, checkpoints, resume."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from align.callbacks.jsonl import BAD_STEPS
from align.config import LoopConfig
from align.errors import RunError
from align.files import LineFile
from align.loop import checkpoint
from align.loop.context import LoopContext
from align.loop.protocol import Algorithm, Examples, NotFinite, Progress, Samples, Stop
from align.loop.updates import Updates
from align.metrics import Tally
from align.types import Experience


class Loop:
    """One training of an algorithm.

    Everything random is keyed by the seed and by where the run stands, so a checkpoint needs counters, weights, the
    optimizer's moments and the examples in use.
    """

    def __init__(self, run: LoopContext, algorithm: Algorithm) -> None:
        assert isinstance(run.config.method, LoopConfig)
        self.run, self.algorithm = run, algorithm
        self.config, self.method = run.config, run.config.method
        self.progress = Progress()
        self.stopped: str | None = None  # why the run ended before max_steps
        self.examples: Examples | None = None  # what updates learn from; None = collect before the next one
        self._started = time.perf_counter()
        self._last_record = 0.0
        self._saved_step = -1
        self.updates = Updates(run, algorithm)

    @property
    def step(self) -> int:
        """Optimizer updates applied."""
        return self.progress.step

    def train(self) -> None:
        """Run to max_steps, to max_policy_tokens, or until the algorithm or a callback stops.

        Raises:
            RunError: More than method.max_bad_steps updates were not finite, or a reward failed. What was learned until
                then is in a checkpoint.
        """
        self._started = time.perf_counter()
        try:
            while self.progress.step < self.config.max_steps and not self._check_early_end():
                if not self.advance():
                    break
        except RunError:
            if 0 < self.progress.step != self._saved_step:
                self.save_checkpoint()
            raise
        if self._saved_step != self.progress.step:
            self.save_checkpoint()

    def advance(self) -> bool:
        """Try one update, and record, evaluate and save where it was applied.

        Returns:
            False where the algorithm stops: nothing was tried.
        """
        if self.examples is None:
            self.examples = self._collect()
        if self.examples is None:
            return False
        metrics = self._update(self.examples)
        n = len(self.examples.lengths)
        self.progress.update += 1
        used_up = self.algorithm.used_up(self.progress, n, metrics)
        if metrics is not None:
            self._record({**self.examples.metrics, **metrics})
        if used_up:
            self.examples = None
            self.progress.rollout += 1
            self.progress.update = 0
        if metrics is not None:
            self._evaluate_and_save()
        return True

    def _collect(self) -> Examples | None:
        """The next examples, past those that cannot be learned from; None where the algorithm stops."""
        rates = self.updates.learning_rates(self.progress.step)
        self.run.activity.advance("collecting examples", figures=rates)
        while True:
            try:
                found = self.algorithm.collect(self.progress)
            except NotFinite as error:
                self._bad_event(error.what, error.samples)
                self.progress.rollout += 1
                continue
            if isinstance(found, Stop):
                self.stopped = found.reason
                return None
            return found

    def _update(self, examples: Examples) -> dict[str, float] | None:
        """One optimizer update on the next minibatch; None where nothing was applied."""
        index = self.algorithm.minibatch(self.progress, len(examples.lengths)).to(examples.lengths.device)
        tally = Tally()
        applied = self.updates.apply(examples, index, self.progress, tally)
        if applied is None:
            if not self.updates.overflowed:
                samples = examples.describe(index, self.run.chat.decode)
                self._bad_event("a loss or gradient was not finite", samples)
            else:
                self.progress.overflows += 1
            return None
        tally.add("event/bad_steps", self.progress.bad_steps)
        tally.add("event/overflows", self.progress.overflows)
        return tally.result()

    def _check_early_end(self) -> bool:
        """Whether a callback wants the run to end, or max_policy_tokens went through the updates; sets `stopped`."""
        tokens, budget = self.progress.tokens, self.config.max_policy_tokens
        if budget is not None and tokens >= budget:
            self.stopped = f"{tokens} policy tokens reach max_policy_tokens={budget}"
        else:
            self.stopped = self.run.callbacks.asked_to_stop
        return self.stopped is not None

    def _seconds(self) -> float:
        return self.progress.seconds + time.perf_counter() - self._started

    def _record(self, metrics: Mapping[str, float]) -> None:
        now = self._seconds()
        place = {name: getattr(self.progress, name) for name in ("rollout", "update")}
        record = {"step": self.progress.step, "seconds": now, **place, **metrics, "time/total": now - self._last_record}
        self._last_record = now
        self.run.callbacks.on_step(record)

    def _evaluate_and_save(self) -> None:
        step = self.progress.step
        every = self.config.evaluation.every_steps
        if every and step % every == 0 and step < self.config.max_steps:
            self.run.evaluate(step)
        every = self.config.checkpoint.every_steps
        if every and step % every == 0:
            self.save_checkpoint()

    def _bad_event(self, what: str, samples: Samples) -> None:
        """Count and log an update or examples that were not finite; raises RunError past method.max_bad_steps."""
        self.progress.bad_steps += 1
        path = self.run.folder / BAD_STEPS
        file = LineFile(path)
        file.append({"step": self.progress.step, "what": what, "samples": samples})
        file.close()
        if self.progress.bad_steps > self.method.max_bad_steps:
            raise RunError(f"{what}; {self.progress.bad_steps} such events (method.max_bad_steps); samples in {path}")

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write everything from which the run goes on bit for bit."""
        self.run.activity.advance("saving a checkpoint")
        step = self.progress.step
        rng, rng_tensors = checkpoint.global_rng_state()
        scaler = self.run.accelerator.scaler
        examples = self.examples.tensors() if self.examples is not None else {}
        state = {
            "format": checkpoint.FORMAT,
            "progress": asdict(self.progress) | {"seconds": self._seconds()},
            "last_record": self._last_record,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "rng": rng,
            "method": self.algorithm.state(),
            "examples": dict(self.examples.metrics) if examples and self.examples is not None else {},
        }
        writer = checkpoint.CheckpointWriter(self.run.folder, self.method.name, step)
        writer.tensors("optimizer", self.updates.optimization.tensors())
        writer.tensors("rng", rng_tensors)
        if examples:
            writer.tensors("experience", examples)
        checkpoint.save_modules(self.run, writer)
        path = writer.commit(state)
        self._saved_step = step
        self.run.callbacks.on_checkpoint(step, path)
        keeps = self.run.callbacks.keeps
        checkpoint.prune(self.run.folder, self.method.name, self.config.checkpoint.keep, keeps)

    def resume(self, folder: Path) -> None:
        """Continue from the checkpoint in `folder`; raises InputError for one of a later format."""
        state: dict[str, Any] = checkpoint.read_state(folder)
        self.progress = Progress(**state["progress"])
        self._last_record = state["last_record"]
        self._saved_step = self.progress.step
        checkpoint.restore_modules(self.run, folder)
        self.updates.optimization.load_tensors(checkpoint.read_tensors(folder, "optimizer"))
        if self.run.accelerator.scaler is not None and state["scaler"] is not None:
            self.run.accelerator.scaler.load_state_dict(state["scaler"])
        self.algorithm.load_state(state["method"])
        device = self.run.accelerator.device
        saved: dict[str, Tensor] = {k: v.to(device) for k, v in checkpoint.read_tensors(folder, "experience").items()}
        self.examples = Experience.load(saved, state["examples"]) if saved else None
        checkpoint.set_global_rng_state(state["rng"], checkpoint.read_tensors(folder, "rng"))
        self._started = time.perf_counter()
