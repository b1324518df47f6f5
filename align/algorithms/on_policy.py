"""What PPO and GRPO share: rollouts, their scores and log-probabilities, and minibatch updates on them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.algorithms.passes import HeldStats, Holding, padded_tokens, read
from align.algorithms.rollout_metrics import (
    Clock,
    add_policy,
    add_responses,
    add_rewards,
    add_truth,
    describe,
    with_speed,
)
from align.config import KLController
from align.config.methods import OnPolicyConfig, RatioLevel
from align.engine.policy import Policy, TokenStats
from align.engine.sampling import Noise, sample
from align.errors import RunError
from align.functional import credit as credit_functions
from align.functional import kl
from align.functional.advantages import penalise_kl
from align.functional.batching import token_batches
from align.functional.groups import sequence_log_ratio
from align.functional.kl_controller import adapted_coef
from align.functional.losses import clipped_policy_loss, log_ratio
from align.functional.masked import masked_sum, zero_outside
from align.loop import checkpoint
from align.loop.context import RunContext
from align.loop.trainer import Trainer
from align.metrics import Tally
from align.rewards import reward_input
from align.rewards.base import load_state as load_source_state
from align.rewards.base import state as source_state
from align.streams import permutation
from align.types import Experience, Prompt, RewardOutput, Rollout


@dataclass(frozen=True)
class Scored:
    """A rollout with its reward per token, before the KL penalty and the method's own view of it."""

    rollout: Rollout
    output: RewardOutput
    token_rewards: Tensor  # (B, T), missing-EOS penalty in place
    logprobs: Tensor | None  # (B, T) of the policy that sampled, as training computes them; None: `old_is_current`
    ref_logprobs: Tensor  # (B, T)

    @property
    def sampler_logprobs(self) -> Tensor:
        """`logprobs`, for a method that said it reads them."""
        if self.logprobs is None:
            raise TypeError("nothing has read the policy: `rewards_read_policy` said that nobody asks")
        return self.logprobs

    def penalised(self, coef: float) -> Tensor:
        """(B, T) token rewards less `coef` times each token's KL."""
        mask = self.rollout.response_mask
        return penalise_kl(self.token_rewards, self.sampler_logprobs, self.ref_logprobs, mask, coef)


class OnPolicyTrainer(Trainer):
    """Sample -> score -> (the method's) advantages -> minibatch updates, one update at a time.

    Everything random is keyed by (seed, rollout), so a checkpoint needs only counters and the rollout in use.
    """

    method: OnPolicyConfig

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self.kl_coef = self.method.kl.coef
        self.experience: Experience | None = None
        self.rollout_metrics: dict[str, float] = {}
        self._passes_to_check = 2  # the first may not see an adapter, which starts as no change at all
        self.holding = Holding()

    # What a method fills in ------------------------------------------------------------------------------------------

    @abstractmethod
    def learn_from(self, scored: Scored, tally: Tally) -> Experience:
        """Advantages and whatever else the loss reads, as columns; adds the rollout's own metrics to `tally`."""

    @abstractmethod
    def backward(self, part: Experience, tokens: int, tally: Tally) -> float:
        """Forward and backward of one micro-batch, losses divided by the minibatch's `tokens`; returns the loss."""

    def samples_per_prompt(self) -> int:
        return 1

    def rewards_read_policy(self) -> bool:
        """Whether `learn_from` needs the policy's log-probabilities: the KL penalty stands in the reward."""
        return True

    # Rollouts --------------------------------------------------------------------------------------------------------

    def prompts_of_rollout(self, rollout: int) -> list[Prompt]:
        """Prompts without replacement, one random order per pass: a pure function of the rollout's index."""
        count, n = self.config.rollout.batch_size // self.samples_per_prompt(), len(self.run.prompts)
        places = range(rollout * count, (rollout + 1) * count)
        orders = {epoch: permutation(n, self.config.seed, "prompts", epoch) for epoch in {k // n for k in places}}
        return [self.run.prompts[int(orders[k // n][k % n])] for k in places]

    def collect(self) -> Experience | None:
        """One rollout, ready for updates; None where the KL budget is spent. Skips rollouts that are not finite."""
        while True:
            experience = self._try_collect()
            if experience is not None or self.stopped:
                return experience
            self.progress.rollout += 1

    def _try_collect(self) -> Experience | None:
        tally = Tally()
        clock = Clock(tally)
        prompts = self.prompts_of_rollout(self.progress.rollout)
        rollout = self._sample(prompts)
        clock.lap("time/rollout")
        repeated = [p for p in prompts for _ in range(self.samples_per_prompt())]
        batch = reward_input(rollout, repeated, self.run.chat)
        output = self.run.source.score(batch, self.run.credit.needs)
        token_rewards = self._token_rewards(output, rollout)
        clock.lap("time/reward")
        bad = (~torch.isfinite(token_rewards)).any(1) | ~torch.isfinite(output.total)
        if bool(bad.any()):
            self.bad_event("a reward was not finite", describe(batch, output, token_rewards, only=bad))
            return None
        self.holding = Holding()
        ref_logprobs = self.logprobs(rollout, self.run.roles.reference)  # before there is a graph that is kept
        logprobs = self._sampler_logprobs(rollout)
        experience = self.learn_from(Scored(rollout, output, token_rewards, logprobs, ref_logprobs), tally)
        clock.lap("time/advantage", less=self.holding.seconds)
        add_responses(tally, rollout)
        add_rewards(tally, output, rollout, self.method.missing_eos_penalty is not None)
        add_truth(tally, self.run.world, batch, token_rewards)
        if logprobs is not None:
            add_policy(tally, rollout, logprobs, ref_logprobs, self.kl_coef)
        self.rollout_metrics = with_speed(tally.result(), rollout)
        nats = None if logprobs is None else logprobs - ref_logprobs
        self.run.callbacks.on_rollout(self.progress.step + 1, describe(batch, output, token_rewards, log_ratio=nats))
        if logprobs is not None:
            self._use_kl(self.rollout_metrics["kl/per_response_k1"])
        if self.stopped:
            self.holding = Holding()  # no update comes that would let the graphs go
            return None
        return experience

    def _use_kl(self, nats: float) -> None:
        """End the run where a rollout's KL is over the budget, adapt the penalty's coefficient to it otherwise."""
        budget = self.method.kl.budget
        if budget is not None and nats > budget:
            self.stopped = f"KL of {nats:.2f} nats per response is over method.kl.budget={budget}"
        else:
            self._adapt_kl(nats)

    def _adapt_kl(self, kl_per_response: float) -> None:
        """The new coefficient holds from the next rollout on."""
        config = self.method.kl
        if config.controller is KLController.adaptive:
            self.kl_coef = adapted_coef(
                self.kl_coef,
                kl_per_response,
                target=config.target,
                responses=self.config.rollout.batch_size,
                horizon=config.horizon,
            )

    def _sample(self, prompts: Sequence[Prompt]) -> Rollout:
        config = self.config.rollout
        return sample(
            self.run.roles.policy,
            self.run.chat,
            prompts,
            noise=Noise(self.config.seed, "rollout", self.progress.rollout),
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            samples_per_prompt=self.samples_per_prompt(),
            decode_batch_size=config.decode_batch_size,
            cuda_graphs=config.cuda_graphs,
        )

    def _token_rewards(self, output: RewardOutput, rollout: Rollout) -> Tensor:
        rewards = self.run.credit.assign(output, rollout.response_mask)
        return credit_functions.replace_truncated(
            rewards, rollout.response_mask, rollout.ended, self.method.missing_eos_penalty
        )

    def logprobs(self, rollout: Rollout, model: Policy) -> Tensor:
        """(B, T) float32 log-probabilities of the responses under a role, 0 outside the mask."""
        temperature = self.config.rollout.temperature
        parts = self._micro_batches(rollout, model)
        return read(rollout, parts, lambda part: model.response_logprobs(part, temperature))

    def _sampler_logprobs(self, rollout: Rollout) -> Tensor | None:
        """(B, T) of the policy that sampled, from a pass that is held where it may be; None: nobody asks."""
        policy = self.run.roles.policy
        if self.old_is_current:
            return None
        if not self.may_hold(rollout):
            return self.logprobs(rollout, policy)
        # A pass to compare it with comes first, while there is no graph yet.
        plain = self.logprobs(rollout, policy) if self._passes_to_check else None
        logprobs = self.holding.keep_policy(rollout, self._micro_batches(rollout, policy), self._stats)
        if plain is not None:
            self._compare_passes(rollout, plain, logprobs)
        return logprobs

    def may_hold(self, rollout: Rollout, passes: int = 1) -> bool:
        """Whether the rollout's only update may go on from passes before it, `passes` of them, instead of its own.

        Their graphs are kept until then, and are of no more tokens than a micro-batch.
        """
        tokens = padded_tokens(rollout, self._micro_batches(rollout, self.run.roles.policy))
        return self.one_update and passes * tokens <= self.micro_batch_tokens

    def _micro_batches(self, rollout: Rollout, model: Policy) -> list[Tensor]:
        """Indices of the rows that a role reads at once; those of a prompt stay together, as far as they may."""
        shared = model.shared_tokens(rollout.prompt_mask)
        return token_batches(rollout.attention_mask.sum(1), self.micro_batch_tokens, rollout.prompt_index, shared)

    # Updates ---------------------------------------------------------------------------------------------------------

    def updates_per_epoch(self) -> int:
        return self.config.rollout.batch_size // self.method.minibatch_size

    @property
    def one_update(self) -> bool:
        """Whether a rollout serves one update alone, which is of all its rows."""
        return self.method.epochs * self.updates_per_epoch() == 1

    @property
    def old_is_current(self) -> bool:
        """Whether an update's own log-probabilities are those of the policy that sampled, and nobody asks before it.

        The update is the only one on its rollout then, and a pass over it is saved.
        """
        penalty = self.method.kl
        asked = penalty.budget is not None or penalty.controller is KLController.adaptive or self.rewards_read_policy()
        return self.one_update and not asked

    def update(self) -> Mapping[str, float] | None:
        while True:
            if self.experience is None:
                if self.progress.update:  # the rollout before is used up
                    self.progress.rollout += 1
                    self.progress.update = 0
                self.experience = self.collect()
                if self.experience is None:
                    return None
            metrics = self._one_update(self.experience)
            used_up = self.progress.update == self.method.epochs * self.updates_per_epoch()
            limit = self.method.target_kl
            too_far = metrics is not None and limit is not None and metrics["policy/approx_kl"] > limit
            if used_up or too_far:
                self.experience = None
            if metrics is not None:
                return {**self.rollout_metrics, **metrics}

    def _minibatch(self, experience: Experience) -> Tensor:
        epoch, k = divmod(self.progress.update, self.updates_per_epoch())
        order = permutation(len(experience.rollout), self.config.seed, "minibatch", self.progress.rollout, epoch)
        size = self.method.minibatch_size
        return order[k * size : (k + 1) * size].to(experience.rollout.response_ids.device)

    def _one_update(self, experience: Experience) -> dict[str, float] | None:
        """One minibatch; None where it was not applied."""
        held = self.holding.full
        if not held:
            self.holding = Holding()  # without the policy's pass the critic's is of no use
        minibatch = experience if held else experience.rows(self._minibatch(experience))
        rollout = minibatch.rollout
        if self.old_is_current and self._passes_to_check:
            self._check_passes(rollout)
        tokens = int(rollout.response_mask.sum())
        metrics = self.apply_update(
            rollout.attention_mask.sum(1),
            lambda index, tally: self.backward(minibatch.rows(index), tokens, tally),
            lambda: self._texts(rollout),
            together=rollout.prompt_index,
            shared=self.run.roles.policy.shared_tokens(rollout.prompt_mask),
            forward_seconds=self.holding.seconds if held else None,
        )
        self.progress.update += 1
        if metrics is not None and self.progress.update == 1 and not (self.old_is_current or held):
            ratio, moved = metrics["policy/ratio_mean"], metrics["policy/approx_kl"]
            self._check_same("the first minibatch of a rollout", ratio, moved)
        return metrics

    def policy_loss(
        self,
        part: Experience,
        stats: TokenStats | HeldStats,
        clip_low: float,
        clip_high: float,
        level: RatioLevel,
        tally: Tally,
    ) -> Tensor:
        """Clipped loss per token (B, T) under `stats` of the policy as it is now; its metrics go to `tally`."""
        mask, advantages = part.rollout.response_mask, part.columns["advantages"]
        old = self.old_logprobs(part, stats.logprobs)
        ratio = log_ratio(stats.logprobs, old, mask)
        if level is RatioLevel.sequence:
            ratio = sequence_log_ratio(ratio, mask)
        per_token = clipped_policy_loss(ratio, advantages, clip_low, clip_high)
        with torch.no_grad():
            n = float(mask.sum())
            clipped = (per_token > -advantages * ratio.exp()).float()
            moved = kl.k3(old, stats.logprobs)  # old against new: the samples are the old policy's
            tally.add("policy/loss", float(masked_sum(per_token, mask)), n)
            tally.add("policy/ratio_mean", float(masked_sum(ratio.exp(), mask)), n)
            tally.add("policy/ratio_max", float(ratio[mask == 1].exp().max()))
            tally.add("policy/clip_fraction", float(masked_sum(clipped, mask)), n)
            tally.add("policy/approx_kl", float(masked_sum(moved, mask)), n)
            tally.add("policy/entropy", float(masked_sum(stats.entropy, mask)), n)
            if "logprobs" not in part.columns:
                add_policy(tally, part.rollout, old, part.columns["ref_logprobs"], self.kl_coef)
        return per_token

    def old_logprobs(self, part: Experience, logprobs: Tensor) -> Tensor:
        """(B, T) of the policy that sampled, without gradient; `logprobs` are the update's own."""
        known = part.columns.get("logprobs")
        return zero_outside(logprobs.detach(), part.rollout.response_mask) if known is None else known

    def policy_stats(self, part: Experience) -> TokenStats | HeldStats:
        """The policy's log-probabilities and entropies on a micro-batch, with gradients where they are enabled."""
        return self.holding.take_policy() or self._stats(part.rollout)

    def _stats(self, part: Rollout) -> TokenStats:
        return self.engines["policy"](part, self.config.rollout.temperature)

    def _check_same(self, where: str, ratio: float, moved: float) -> None:
        """Before any update pi is pi_old: a ratio off 1 means that dropout, masks or positions differ by pass."""
        ratio_off, kl_off = (1e-5, 1e-6) if self.run.roles.policy.dtype is torch.float32 else (2e-2, 1e-3)
        # The mean alone would not see differences that cancel; approx_kl adds their squares up.
        if abs(ratio - 1) > ratio_off or moved > kl_off:
            raise RunError(f"on {where} the ratio is {ratio:.6f} and approx_kl {moved:.2e}")

    def _check_passes(self, rollout: Rollout) -> None:
        """See, on the first rollouts, what the first ratio shows where there is a pass before the update."""
        parts = self._micro_batches(rollout, self.run.roles.policy)
        old = self.logprobs(rollout, self.run.roles.policy)
        self._compare_passes(rollout, old, read(rollout, parts, lambda part: self._stats(part).logprobs.detach()))

    def _compare_passes(self, rollout: Rollout, old: Tensor, new: Tensor) -> None:
        """Log-probabilities (B, T) of passes without and with gradient, under the same weights."""
        mask = rollout.response_mask
        moved = float(masked_sum(kl.k3(old, new), mask) / mask.sum())
        ratio = float(masked_sum(log_ratio(new, old, mask).exp(), mask) / mask.sum())
        if math.isfinite(moved):  # else the update says so, and is not applied
            self._check_same("passes with and without gradient, before an update,", ratio, moved)
            self._passes_to_check -= 1

    def _texts(self, rollout: Rollout) -> list[dict[str, Any]]:
        lengths = rollout.lengths.tolist()
        rows = zip(rollout.prompt_index.tolist(), rollout.response_ids.tolist(), lengths, strict=True)
        return [{"prompt_id": p, "response": self.run.chat.decode(ids[:n])} for p, ids, n in rows]

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        files = {}
        if self.experience is not None:
            rollout = {f"rollout.{k}": v for k, v in self.experience.rollout.tensors().items()}
            files["experience"] = rollout | {f"column.{k}": v for k, v in self.experience.columns.items()}
        own = {"kl_coef": self.kl_coef, "rollout_metrics": self.rollout_metrics}
        return own | {"source": source_state(self.run.source)}, files

    def load_state(self, folder: Path, state: Mapping[str, Any]) -> None:
        self.holding = Holding()
        self.kl_coef = state["kl_coef"]
        self.rollout_metrics = state["rollout_metrics"]
        load_source_state(self.run.source, state.get("source", {}))
        device = self.run.accelerator.device
        saved = {k: v.to(device) for k, v in checkpoint.read_tensors(folder, "experience").items()}
        if saved:
            rollout = {k.removeprefix("rollout."): v for k, v in saved.items() if k.startswith("rollout.")}
            columns = {k.removeprefix("column."): v for k, v in saved.items() if k.startswith("column.")}
            self.experience = Experience(Rollout(**rollout), columns)
