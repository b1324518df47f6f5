"""PPO (arXiv 1707.06347) on a language model's responses, with token rewards (arXiv 2203.02155), in reading order.

Sample -> score -> credit -> truncated responses -> KL -> advantages -> epochs over minibatches -> clipped losses. The
optimizer and records are those of align/loop/{updates,loop}.py, checkpoints of align/loop/checkpoint.py. Details are
N+'s (arXiv 2403.17031). Unlike in CleanRL: no entropy bonus, whitening once a rollout, pi_old by a pass of its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from align.algorithms.counted import counted_rows
from align.algorithms.kl_control import KLControl
from align.algorithms.rollout_metrics import (
    Clock,
    add_policy,
    add_rollout,
    add_update,
    add_value_update,
    add_values,
    check_first_ratio,
    describe,
    refuse_not_finite,
    with_speed,
)
from align.engine.passes import read_logprobs, read_values
from align.engine.protocol import TokenStats
from align.engine.sampling import Noise
from align.functional.credit import replace_truncated
from align.functional.masked import masked_sum, whiten, zero_outside
from align.loop.context import RunContext
from align.loop.protocol import Loss, Progress, Stop, Trained
from align.metrics import Tally
from align.rewards import reward_input
from align.streams import in_passes, permutation
from align.types import SCORED, Batch, Experience, Rollout, TrainerState, masked_rows


class PPO:
    """Sampled from the policy; credited by token rewards less KL, through a critic; trained with clipped losses."""

    method: Any  # PPOConfig; a subclass has options of its own
    samples_per_prompt = 1
    reads_reference = False  # its log-probabilities are computed once a rollout, not at every update

    def __init__(self, run: RunContext) -> None:
        self.run, self.config, self.method = run, run.config, run.config.method
        self.temperature = self.config.rollout.temperature
        self.kl = KLControl(self.method.kl, run.config.rollout.batch_size)
        self.clip_low = self.clip_high = self.method.clip_range
        self.trained = self.roles()

    def roles(self) -> dict[str, Trained]:
        policy = Trained(self.policy_loss, self.method.rate, first_step=self.method.critic_warmup_steps)
        return {"policy": policy, "critic": Trained(self.value_loss, self.method.critic_rate)}

    def collect(self, at: Progress) -> Experience | Stop:
        """1. Sample, score, credit: one rollout, ready for updates, or Stop where its KL is over the budget."""
        run, settings, seed, group_size = self.run, self.config.rollout, self.config.seed, self.samples_per_prompt
        clock, count = Clock(tally := Tally()), settings.batch_size // group_size
        order = in_passes(len(run.prompts), at.rollout * count, count, seed, "prompts")
        prompts = [run.prompts[i] for i in order]
        rollout = run.sample(prompts, Noise(seed, "rollout", at.rollout), group_size)
        clock.lap("time/rollout")

        run.activity.advance("rewards", 0, len(rollout))
        state = TrainerState(at.step, self.config.max_steps)
        batch = reward_input(rollout, [prompt for prompt in prompts for _ in range(group_size)], run.chat, state)
        output = run.source.score(batch, run.credit.needs)  # a number for each response (align/rewards), ...
        rewards = run.credit.assign(output, rollout.response_mask)  # ... spread over its tokens
        rewards = replace_truncated(rewards, rollout.response_mask, rollout.ended, settings.truncation_score)
        refuse_not_finite(batch, output, rewards)
        clock.lap("time/reward")

        columns = self.columns(rollout) | counted_rows(output, rollout, settings)
        estimated, figures = self.advantages(rewards, columns, rollout.response_mask)
        columns |= estimated
        clock.lap("time/advantage")

        tally.merge(figures)
        add_rollout(tally, batch, output, rewards, settings.truncation_score is not None, run.world)
        add_policy(tally, rollout, columns["logprobs"], columns["ref_logprobs"], self.kl.coef)
        run.callbacks.on_rollout(at.step + 1, describe(batch, output, rewards, columns))
        metrics = with_speed(tally.result(), rollout)
        return self.kl.adapt(metrics["kl/per_response_k1"]) or Experience(rollout, columns, metrics)

    def columns(self, rollout: Rollout) -> dict[str, Tensor]:
        """(B, T) each: log-probabilities of the policy that sampled, as training reads it, and of the reference."""
        roles, budget, activity = self.run.roles, self.run.micro_batch_tokens, self.run.activity
        ref_logprobs = read_logprobs(roles.reference, rollout, self.temperature, budget, activity)
        logprobs = read_logprobs(roles.policy, rollout, self.temperature, budget, activity)
        values = {} if roles.critic is None else {"values": read_values(roles.critic, rollout, budget, activity)}
        return {"logprobs": logprobs, "ref_logprobs": ref_logprobs, **values}

    def subtract_kl(self, rewards: Tensor, columns: dict[str, Tensor], mask: Tensor) -> Tensor:
        """2. KL penalty: r_t - beta * (log pi(y_t) - log pi_ref(y_t)): (B, T). InstructGPT, arXiv 2203.02155, eq. 2."""
        return zero_outside(rewards - self.kl.coef * (columns["logprobs"] - columns["ref_logprobs"]), mask)

    def advantages(self, rewards: Tensor, columns: dict[str, Tensor], mask: Tensor) -> tuple[dict[str, Tensor], Tally]:
        """3. Rewards (B, T), KL not yet in them, to the columns that losses read: advantages and returns (B, T)."""
        method, tally = self.method, Tally()
        mask = masked_rows(mask, columns, SCORED)
        rewards = self.subtract_kl(rewards, columns, mask)
        tally.observe("reward/total_mean", rewards.sum(1)[mask.any(1)].tolist())
        if method.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, columns["values"], mask, gamma=method.gamma, lam=method.lam)
        add_values(tally, advantages, mask, columns["values"], returns)
        advantages = whiten(advantages, masked_rows(mask, columns)) if method.whiten_advantages else advantages
        return {"advantages": advantages, "returns": returns}, tally

    def minibatch(self, at: Progress, n: int) -> Tensor:
        """4. Epochs over minibatches: every response once in each epoch, in an order of the epoch's own."""
        size = self.method.minibatch_size
        epoch, k = divmod(at.update, n // size)
        order = permutation(n, self.config.seed, "minibatch", at.rollout, epoch)
        return order[k * size : (k + 1) * size]

    def used_up(self, at: Progress, n: int, metrics: Mapping[str, float] | None) -> bool:
        """Whether all epochs are done, or the policy went farther than target_kl from the one that sampled."""
        moved = None if metrics is None else metrics.get("policy/approx_kl")  # None: every response was masked
        if at.update == 1 and metrics is not None and moved is not None:
            check_first_ratio(metrics, self.run.roles.policy.dtype)
        limit = self.method.target_kl
        too_far = moved is not None and limit is not None and moved > limit
        return too_far or at.update == self.method.epochs * (n // self.method.minibatch_size)

    def policy_loss(self, batch: Batch, out: TokenStats) -> Loss:
        """5. Clipped losses: the policy's surrogate, summed over the minibatch's tokens and divided by their number."""
        tally = Tally()
        return Loss(masked_sum(self.surrogate(batch, out, tally), batch.mask) / batch.size.tokens, tally)

    def log_ratio(self, batch: Batch, logprobs: Tensor) -> Tensor:
        """log pi - log pi_old: (B, T), exactly 0 outside the mask, so that the ratio of padding is 1 (N+)."""
        return torch.where(batch.mask == 1, logprobs - batch.columns["logprobs"], torch.zeros_like(logprobs))

    def surrogate(self, batch: Batch, out: TokenStats, tally: Tally) -> Tensor:
        """max(-A * ratio, -A * clip(ratio, 1 - low, 1 + high)): (B, T). PPO, arXiv 1707.06347, eq. 7."""
        advantages = batch.columns["advantages"]
        ratio = self.log_ratio(batch, out.logprobs).exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        per_token = torch.max(-advantages * ratio, -advantages * clipped)
        add_update(tally, batch, out, ratio, per_token)
        return per_token

    def value_loss(self, batch: Batch, scores: Tensor) -> Loss:
        """Half the larger squared error of the new value and of one clipped to the old +- range (N+)."""
        mask, method, old, returns = batch.mask, self.method, batch.columns["values"], batch.columns["returns"]
        values, tally = zero_outside(scores[:, :-1], mask), Tally()
        clipped = old + (values - old).clamp(-method.value_clip_range, method.value_clip_range)
        per_token = 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2)
        add_value_update(tally, mask, per_token, 0.5 * (values - returns) ** 2)
        return Loss(method.vf_coef * (masked_sum(per_token, mask) / batch.size.tokens), tally)

    def state(self) -> dict[str, Any]:
        """6. What a checkpoint keeps."""
        return {"kl_coef": self.kl.coef, "source": self.run.source.state()}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        self.kl.coef = saved["kl_coef"]
        self.run.source.load_state(saved.get("source", {}))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """3. Generalised advantage estimation (arXiv 1506.02438, eq. 16): advantages, and returns = advantages + values.

    All are (B, T), 0 outside the mask; values[:, t] is the critic's estimate before token t is chosen. The value after
    a response's last token is 0, whether it ended or was truncated: the episode is over either way.
    """
    rewards, values = zero_outside(rewards, mask), zero_outside(values, mask)
    advantages = torch.zeros_like(rewards)
    running = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        # Past the last token value and running are 0, and stay so: masked rewards and values are 0.
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = running = delta + gamma * lam * running
        next_value = values[:, t]
    return zero_outside(advantages, mask), zero_outside(advantages + values, mask)
