"""PPO (arXiv 1707.06347) with a critic and rewards per token (arXiv 2203.02155).

One update, in reading order: KL-shaped rewards -> GAE -> clipped policy loss and clipped value loss, each summed over
the minibatch's response tokens and divided by their number. Details and their sources: arXiv 2403.17031 (N).
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.algorithms.on_policy import OnPolicyTrainer, Scored
from align.algorithms.passes import read
from align.config.methods import PPOConfig, RatioLevel
from align.engine.value_head import ValueHead
from align.functional.advantages import explained_variance, gae
from align.functional.batching import token_batches
from align.functional.losses import aggregate, clipped_value_loss
from align.functional.masked import masked_sum, whiten, zero_outside
from align.loop.context import RunContext
from align.metrics import Tally
from align.types import Experience, Rollout


class PPOTrainer(OnPolicyTrainer):
    method: PPOConfig

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        if run.roles.critic is None:
            raise TypeError("PPO needs a critic")
        self.critic: ValueHead = run.roles.critic

    def learning_rates(self) -> dict[str, float]:
        return {"policy": self.method.learning_rate, "critic": self.method.critic_learning_rate}

    def learn_from(self, scored: Scored, tally: Tally) -> Experience:
        mask = scored.rollout.response_mask
        values = self._values(scored.rollout)
        rewards = scored.penalised(self.kl_coef)
        tally.observe("reward/total_mean", rewards.sum(1).tolist())
        if self.method.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, values, mask, gamma=self.method.gamma, lam=self.method.lam)
        counted = advantages[mask == 1].tolist()
        for name in ("mean", "std", "min", "max"):
            tally.observe(f"advantage/{name}", counted)
        tally.add("value/mean", float(masked_sum(values, mask)), float(mask.sum()))
        tally.add("value/explained_variance", explained_variance(values, returns, mask))
        if self.method.whiten_advantages:
            advantages = whiten(advantages, mask)
        columns = {"logprobs": scored.sampler_logprobs, "values": values, "advantages": advantages, "returns": returns}
        return Experience(scored.rollout, columns)

    def _values(self, rollout: Rollout) -> Tensor:
        """(B, T) values before each response token, 0 outside the mask."""
        parts = token_batches(rollout.attention_mask.sum(1), self.micro_batch_tokens)
        if self.may_hold(rollout, passes=2):  # the policy's, and this
            return self.holding.keep_values(rollout, parts, self._read_values)
        with torch.no_grad():
            return read(rollout, parts, self._read_values)

    def _read_values(self, part: Rollout) -> Tensor:
        """(b, t)"""
        return response_values(self.engines["critic"](part.input_ids, part.attention_mask), part)

    def backward(self, part: Experience, tokens: int, tally: Tally) -> float:
        warming_up = self.progress.step < self.method.critic_warmup_steps
        clip, mask = self.method.clip_range, part.rollout.response_mask
        with torch.set_grad_enabled(not warming_up):
            stats = self.policy_stats(part)
            per_token = self.policy_loss(part, stats, clip, clip, RatioLevel.token, tally)
            loss = aggregate(per_token, mask, tokens)
        del stats, per_token  # and with them the logits, which backward would have beside their gradient
        with self.run.roles.policy.active():  # gradient checkpointing runs forward again: with the same adapter
            if not warming_up:
                self.run.accelerator.backward(loss)
        loss = loss.detach()  # of a graph that is used up, whose remains would lie in the critic's way
        value_loss = self.method.vf_coef * self._value_loss(part, tokens, tally)
        with self.critic.active():
            self.run.accelerator.backward(value_loss)
        return float(loss + value_loss.detach())

    def _value_loss(self, part: Experience, tokens: int, tally: Tally) -> Tensor:
        mask, held = part.rollout.response_mask, self.holding.take_values()
        values = zero_outside(self._read_values(part.rollout), mask) if held is None else held
        old, returns = part.columns["values"], part.columns["returns"]
        per_token = clipped_value_loss(values, old, returns, self.method.value_clip_range)
        with torch.no_grad():
            n = float(mask.sum())
            clipped = (per_token > 0.5 * (values - returns) ** 2).float()
            tally.add("value/loss", float(masked_sum(per_token, mask)), n)
            tally.add("value/clip_fraction", float(masked_sum(clipped, mask)), n)
        return aggregate(per_token, mask, tokens)


def response_values(scores: Tensor, rollout: Rollout) -> Tensor:
    """(B, S) scores of every prefix -> (B, T) values before each response token: from the prompt's last token on."""
    return scores[:, rollout.prompt_ids.shape[1] - 1 : -1]
