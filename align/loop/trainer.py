"""The loop that every method shares: updates, records, evaluations, checkpoints, and the way back from one."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from align.callbacks.jsonl import BAD_STEPS
from align.config import LoopConfig
from align.engine.budget import micro_batch_tokens
from align.engine.policy import Policy
from align.engine.value_head import ValueHead
from align.errors import RunError
from align.files import LineFile
from align.functional.batching import token_batches
from align.loop import checkpoint
from align.loop.checkpoint import CheckpointWriter
from align.loop.context import RunContext
from align.loop.method import Method, save_model
from align.loop.optimization import Optimization
from align.memory import peak_memory_mib
from align.metrics import Tally

MAX_OVERFLOWS = 25  # a gradient scaler that starts at 2^16 and halves has reached 2^-9 by then


@dataclass
class Progress:
    """Where a run stands; all of it is in a checkpoint."""

    step: int = 0  # optimizer updates applied
    rollout: int = 0  # index of the rollout in use
    update: int = 0  # updates tried on it
    tokens: int = 0  # prompt and response tokens through the policy's forward and backward
    bad_steps: int = 0  # updates not applied
    overflows: int = 0  # updates that a gradient scaler skipped to lower its scale
    seconds: float = 0.0  # of training, earlier sittings included


class Trainer(Method):
    """A method fills in one update and its state; how a run goes about it is the same for all."""

    method: LoopConfig
    micro_batch_tokens: int

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        assert isinstance(run.config.method, LoopConfig)
        self.method = run.config.method
        self.micro_batch_tokens = micro_batch_tokens(run.roles.policy.model.config, self.method.micro_batch_tokens)
        self.progress = Progress()
        self._started = time.perf_counter()
        self._last_record = 0.0
        self._saved_step = -1
        trained: dict[str, Policy | ValueHead] = {"policy": run.roles.policy}
        if run.roles.critic is not None:
            trained["critic"] = run.roles.critic
        # Prepared as modules, so that accelerate owns device, precision and gradient scaling.
        self.engines: dict[str, nn.Module] = {n: run.accelerator.prepare(module) for n, module in trained.items()}
        rates = self.learning_rates()
        owned = {name: (module.trained_parameters(), rates[name]) for name, module in trained.items()}
        self.optimization = Optimization(owned, self.method, self.config.max_steps, run.accelerator)

    @property
    def step(self) -> int:
        return self.progress.step

    def learning_rates(self) -> dict[str, float]:
        """The base learning rate of every trained role."""
        return {"policy": self.method.learning_rate}

    @abstractmethod
    def update(self) -> Mapping[str, float] | None:
        """Apply one update and return its metrics; None where the run has reached its own end (see `stopped`)."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """The method's part of a checkpoint: JSON, and tensors by file name."""

    @abstractmethod
    def load_state(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave; `folder` is the checkpoint's."""

    def train(self) -> None:
        """Run to max_steps, to max_policy_tokens, or until the method stops.

        Raises:
            RunError: More than method.max_bad_steps updates were not finite, or a reward failed. What was learnt until
                then is in a checkpoint.
        """
        self._started = time.perf_counter()
        try:
            self._loop()
        except RunError:
            if 0 < self.progress.step != self._saved_step:
                self.save_checkpoint()
            raise
        if self._saved_step != self.progress.step:
            self.save_checkpoint()

    def _loop(self) -> None:
        while self.progress.step < self.config.max_steps and not self._tokens_spent() and not self._asked_to_stop():
            metrics = self.update()
            if metrics is None:
                break
            self._record(metrics)
            step = self.progress.step
            every = self.config.evaluation.every_steps
            if every and step % every == 0 and step < self.config.max_steps:
                self.run.evaluate(step)
            every = self.config.checkpoint.every_steps
            if every and step % every == 0:
                self.save_checkpoint()

    def _asked_to_stop(self) -> bool:
        """Whether a callback wants the run to end, whose reason `stopped` then is."""
        self.stopped = self.run.callbacks.asked_to_stop
        return self.stopped is not None

    def _tokens_spent(self) -> bool:
        """Whether max_policy_tokens went through the updates, which `stopped` then says."""
        tokens, budget = self.progress.tokens, self.config.max_policy_tokens
        if budget is None or tokens < budget:
            return False
        self.stopped = f"{tokens} policy tokens reach max_policy_tokens={budget}"
        return True

    def seconds(self) -> float:
        return self.progress.seconds + time.perf_counter() - self._started

    def _record(self, metrics: Mapping[str, float]) -> None:
        now = self.seconds()
        record = {
            "step": self.progress.step,
            "seconds": now,
            "rollout": self.progress.rollout,
            "update": self.progress.update,
            **metrics,
            "time/total": now - self._last_record,
        }
        self._last_record = now
        self.run.callbacks.on_step(record)

    def apply_update(
        self,
        lengths: Tensor,
        backward: Callable[[Tensor, Tally], float],
        describe: Callable[[], Sequence[Mapping[str, Any]]],
        together: Tensor | None = None,
        shared: Tensor | None = None,
        forward_seconds: float | None = None,
    ) -> dict[str, float] | None:
        """One optimizer update, gradients summed over micro-batches.

        Args:
            lengths: (n,) tokens of each row of the update, prompt and response.
            backward: Forward and backward of the rows that an index (m,) names; returns their loss.
            describe: The samples of the update, for the log of one that is not applied.
            together: (n,) Rows of the same number share their prompt, and so stay in one micro-batch where they can.
            shared: (n,) tokens of it that are read once for all of them.
            forward_seconds: Forward passes of these rows were made before, in so many seconds, and `backward` goes on
                from their one graph: for all rows at once.

        Returns:
            The update's metrics; None where a loss or gradient was not finite and nothing was applied.
        """
        started = time.perf_counter()
        tally = Tally()
        if forward_seconds is None:
            batches = token_batches(lengths, self.micro_batch_tokens, together, shared)
        else:
            batches = [torch.arange(len(lengths), device=lengths.device)]
        loss = sum(backward(index, tally) for index in batches)
        rates = self.optimization.rates(self.progress.step)
        norms = self.optimization.apply(self.progress.step) if math.isfinite(loss) else None
        self.optimization.discard()
        if norms is None:
            # In fp16 the gradient scaler finds its scale by overflowing a few times, and has lowered it by itself.
            if math.isfinite(loss) and 0 < self.optimization.overflows <= MAX_OVERFLOWS:
                self.progress.overflows += 1
            else:
                self.bad_event("a loss or gradient was not finite", describe())
            return None
        tokens = int(lengths.sum())
        self.progress.step += 1
        self.progress.tokens += tokens
        for role, norm in norms.items():
            family = "policy" if role == "policy" else "value"
            tally.add(f"{family}/grad_norm", norm)
            tally.add(f"{family}/learning_rate", rates[role])
        seconds = time.perf_counter() - started + (forward_seconds or 0.0)
        tally.add("time/update", seconds)
        tally.add("throughput/policy_tokens_per_second", tokens / seconds)
        tally.add("tokens/policy", self.progress.tokens)
        tally.add("memory/peak_mib", peak_memory_mib(self.run.accelerator.device))
        tally.add("event/bad_steps", self.progress.bad_steps)
        tally.add("event/overflows", self.progress.overflows)
        return tally.result()

    def bad_event(self, what: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """Count and log an update or rollout that is not applied because something was not finite.

        Raises:
            RunError: It was one more than method.max_bad_steps.
        """
        self.progress.bad_steps += 1
        path = self.run.folder / BAD_STEPS
        file = LineFile(path)
        file.append({"step": self.progress.step, "what": what, "samples": list(samples)})
        file.close()
        if self.progress.bad_steps > self.method.max_bad_steps:
            raise RunError(f"{what}; {self.progress.bad_steps} such events (method.max_bad_steps); samples in {path}")

    def save_checkpoint(self) -> None:
        step = self.progress.step
        own, files = self.state()
        rng, rng_tensors = checkpoint.global_rng_state()
        files = files | {"optimizer": self.optimization.tensors(), "rng": rng_tensors}
        if self.run.roles.critic is not None:
            files["critic"] = dict(self.run.roles.critic.trained_parameters())
        scaler = self.run.accelerator.scaler
        state = {
            "progress": asdict(self.progress) | {"seconds": self.seconds()},
            "last_record": self._last_record,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "rng": rng,
            "method": own,
        }
        writer = CheckpointWriter(self.run.folder, self.method.name, step)
        for name, tensors in files.items():
            writer.tensors(name, tensors)
        save_model(self.run, writer.folder / "model")
        path = writer.commit(state)
        self._saved_step = step
        self.run.callbacks.on_checkpoint(step, path)
        keeps = self.run.callbacks.keeps
        checkpoint.prune(self.run.folder, self.method.name, self.config.checkpoint.keep, keeps)

    def resume(self, folder: Path) -> None:
        """Continue from the checkpoint in `folder`."""
        state = checkpoint.read_state(folder)
        self.progress = Progress(**state["progress"])
        self._last_record = state["last_record"]
        self._saved_step = self.progress.step
        self.run.roles.policy.restore(folder / "model")
        if self.run.roles.critic is not None:
            saved = checkpoint.read_tensors(folder, "critic")
            with torch.no_grad():
                for name, parameter in self.run.roles.critic.trained_parameters().items():
                    parameter.copy_(saved[name])
        self.optimization.load_tensors(checkpoint.read_tensors(folder, "optimizer"))
        if self.run.accelerator.scaler is not None and state["scaler"] is not None:
            self.run.accelerator.scaler.load_state_dict(state["scaler"])
        self.load_state(folder, state["method"])
        checkpoint.set_global_rng_state(state["rng"], checkpoint.read_tensors(folder, "rng"))
        self._started = time.perf_counter()
