"""One optimizer update: a minibatch in micro-batches, a loss of each trained role, gradients clipped and applied."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from align.activity import UPDATE
from align.config import LoopConfig
from align.engine.reference import Policy
from align.functional.batching import token_batches
from align.loop.context import LoopContext
from align.loop.optimization import Optimization
from align.loop.protocol import Algorithm, Examples, Progress, Trained
from align.metrics import Tally
from align.models.hardware import peak_memory_mib
from align.types import Batch, Size

MAX_OVERFLOWS = 25  # a gradient scaler that starts at 2^16 and halves has reached 2^-9 by then
FORWARD_ONLY = -1  # a step at which no role learns
BACKWARD = 2.0  # passes forward that take as long as one backward, where all weights are trained
FAMILIES = {"policy": "policy", "critic": "value"}  # prefix of a role's metrics; the role's name for others


class Updates:
    """Applies updates to the modules that an algorithm trains."""

    def __init__(self, run: LoopContext, algorithm: Algorithm) -> None:
        assert isinstance(run.config.method, LoopConfig)
        self._run, self._algorithm = run, algorithm
        owned = {name: (run.modules[name], trained.learning_rate) for name, trained in algorithm.trained.items()}
        # Prepared as modules, so that accelerate owns device, precision and gradient scaling.
        self._prepared: dict[str, nn.Module] = {n: run.accelerator.prepare(module) for n, (module, _) in owned.items()}
        parameters = {name: (module.trained_parameters(), rate) for name, (module, rate) in owned.items()}
        self.optimization = Optimization(parameters, run.config.method, run.config.max_steps, run.accelerator)
        self.overflowed = False  # whether a gradient scaler skipped the last update to lower its scale

    def apply(self, examples: Examples, index: Tensor, at: Progress, tally: Tally) -> Tally | None:
        """Learn from the rows that `index` (m,) names; an update that is applied counts in at.step and at.tokens.

        Returns:
            `tally` with the update's metrics; None where a loss or gradient was not finite and nothing was applied.
        """
        started = time.perf_counter()
        lengths = examples.lengths[index]
        size = Size(len(index), max(1, int(examples.response_tokens[index].sum())))  # all of them may be masked
        rates = self.optimization.rates(at.step)
        figures = self._figures_before(examples, index, lengths, at.step)
        loss = 0.0
        for part in self._counted(self._micro_batches(examples, index, lengths), lengths, tally, figures, at.step):
            loss += self._backward(examples.rows(index[part], size), at.step, tally)
        norms = self.optimization.apply(at.step) if math.isfinite(loss) else None
        self.optimization.discard()
        # In fp16 the gradient scaler finds its scale by overflowing a few times, and has lowered it by itself.
        overflows = self.optimization.overflows
        self.overflowed = norms is None and math.isfinite(loss) and 0 < overflows <= MAX_OVERFLOWS
        if norms is None:
            return None
        tokens = int(lengths.sum())
        at.step += 1
        at.tokens += tokens
        for role, norm in norms.items():
            tally.add(f"{FAMILIES.get(role, role)}/grad_norm", norm)
            tally.add(f"{FAMILIES.get(role, role)}/learning_rate", rates[role])
        seconds = time.perf_counter() - started
        tally.add("time/update", seconds)
        tally.add("throughput/policy_tokens_per_second", tokens / seconds)
        tally.add("tokens/policy", at.tokens)
        tally.add("memory/peak_mib", peak_memory_mib(self._run.accelerator.device))
        return tally

    def learning_rates(self, step: int) -> dict[str, float]:
        """Learning rates of the update after `step` of them, by metric."""
        rates = self.optimization.rates(step)
        return {f"{FAMILIES.get(role, role)}/learning_rate": rate for role, rate in rates.items()}

    def _figures_before(self, examples: Examples, index: Tensor, lengths: Tensor, step: int) -> dict[str, float]:
        """Compute what is known of an update before its first micro-batch, for whoever listens.

        Before a run's first update nothing is known of its loss where nothing was sampled, and a micro-batch of a real
        model takes longer than people wait: there it is the loss of the shortest row, by a pass without gradients.
        """
        figures = dict(examples.metrics) | self.learning_rates(step)
        if step > 0 or examples.metrics or not self._run.activity.heard:
            return figures
        row, tally = lengths.argmin().unsqueeze(0), Tally()
        batch = examples.rows(index[row], Size(1, max(1, int(examples.response_tokens[index[row]].sum()))))
        self._run.activity.advance("loss of the shortest row", figures=figures)
        with torch.no_grad():
            self._backward(batch, FORWARD_ONLY, tally)
        return figures | tally.result()

    def _counted(
        self, parts: Sequence[Tensor], lengths: Tensor, tally: Tally, figures: dict[str, float], step: int
    ) -> Iterator[Tensor]:
        """Yield the micro-batches, and report after each how far the update is, with its figures so far."""
        activity, started = self._run.activity, time.perf_counter()
        if not activity.heard:
            yield from parts
            return
        ends = (
            torch.stack([lengths[part].sum() for part in parts]).cumsum(0).tolist()
        )  # one read of a GPU, not one each
        tokens, rows = ends[-1], 0
        activity.advance(UPDATE, 0, len(lengths), figures=figures, tokens=tokens)
        for part, done in zip(parts, ends, strict=True):
            rows += len(part)
            activity.expect(done / tokens, self._passes(step))
            yield part
            if activity.due:
                figures = figures | tally.result()
                figures["throughput/policy_tokens_per_second"] = done / (time.perf_counter() - started)
                activity.advance(UPDATE, rows, len(lengths), share=done / tokens, figures=figures, tokens=tokens)

    def _passes(self, step: int) -> float:
        """Count the passes of a micro-batch, in passes forward."""
        reference = self._algorithm.reads_reference and self._run.reference is not None
        learn = (1 + BACKWARD * (step >= role.first_step) for role in self._algorithm.trained.values())
        return reference + sum(learn)

    def _micro_batches(self, examples: Examples, index: Tensor, lengths: Tensor) -> list[Tensor]:
        """Places in `index`, one tensor a micro-batch; rows that share a prompt stay together."""
        together, shared = None, None
        policy = self._run.modules.get("policy")
        if examples.prompts is not None and isinstance(policy, Policy):
            numbers, mask = examples.prompts
            together, shared = numbers[index], policy.shared_tokens(mask[index])
        return token_batches(lengths, self._run.micro_batch_tokens, together, shared)

    def _backward(self, batch: Batch, step: int, tally: Tally) -> float:
        """Forward and backward of one micro-batch, role by role so that one graph lives at a time."""
        if self._algorithm.reads_reference and self._run.reference is not None:
            self._run.activity.begin()
            ref_logprobs = self._run.reference.response_logprobs(batch.sequences, self._algorithm.temperature)
            batch = Batch(batch.sequences, {**batch.columns, "ref_logprobs": ref_logprobs}, batch.size)
        return sum(self._role(name, role, batch, step, tally) for name, role in self._algorithm.trained.items())

    def _role(self, name: str, role: Trained, batch: Batch, step: int, tally: Tally) -> float:
        learns = step >= role.first_step
        self._run.activity.begin()
        with torch.set_grad_enabled(learns):
            outputs = self._outputs(name, batch)
            self._run.activity.inside("loss", 1.0)  # a large vocabulary's takes as long as many layers
            loss, metrics = role.loss(batch, outputs)
        del outputs  # frees the logits before backward, which makes their gradient
        tally.merge(metrics)
        if learns:
            self._run.activity.begin(BACKWARD)
            self._run.activity.inside("backward")
            with self._run.modules[name].active():  # checkpointed activations run forward again, with this adapter
                self._run.accelerator.backward(loss)
        return float(loss.detach())

    def _outputs(self, name: str, batch: Batch) -> Any:
        """What a role's loss reads: a policy's TokenStats, a value head's scores of every prefix (B, T + 1)."""
        if isinstance(self._run.modules[name], Policy):
            return self._prepared[name](batch.sequences, self._algorithm.temperature)
        rows = batch.sequences
        scores = self._prepared[name](rows.input_ids, rows.attention_mask)
        return scores[:, rows.prompt_ids.shape[1] - 1 :]
