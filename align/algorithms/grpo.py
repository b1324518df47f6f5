"""GRPO (arXiv 2402.03300): PPO whose baseline is the group of responses to the same prompt, without a critic.

A sparse reward gives a response one advantage. A dense one gives each token its reward-to-go, centred over the group's
tokens: a scheme that only redistributes a fixed sum would change nothing if it were summed to a scalar first.
"""

from torch import Tensor

from align.algorithms.ppo import PPO
from align.algorithms.rollout_metrics import add_advantages
from align.config.methods import Baseline, GRPOConfig, KLEstimator, KLPlace, LossLength, RatioLevel
from align.engine.protocol import TokenStats
from align.functional import kl
from align.functional.groups import (
    group_advantages,
    group_centred,
    reward_to_go,
    sequence_log_ratio,
    token_weights,
    zero_std_fraction,
)
from align.functional.masked import masked_sum
from align.loop.context import RunContext
from align.loop.protocol import Loss, Trained
from align.metrics import Tally
from align.types import SCORED, Batch, masked_rows


class GRPO(PPO):
    """Sampled from the policy in groups; credited by comparison within a group; trained with the clipped surrogate."""

    method: GRPOConfig

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self.samples_per_prompt = self.method.group_size
        self.clip_high = self.method.clip_high or self.clip_low

    def roles(self) -> dict[str, Trained]:
        return {"policy": Trained(self.policy_loss, self.method.rate)}

    def advantages(self, rewards: Tensor, columns: dict[str, Tensor], mask: Tensor) -> tuple[dict[str, Tensor], Tally]:
        """Rewards (B, T) to advantages (B, T): of a response within its group, or of each token of a dense reward."""
        tally = Tally()
        method, size = self.method, self.method.group_size
        if method.kl.place is KLPlace.reward and method.kl.coef > 0:
            rewards = self.subtract_kl(rewards, columns, mask)
        returns, mask = rewards.sum(1), masked_rows(mask, columns, SCORED)
        counted = columns[SCORED] == 1 if SCORED in columns else None
        tally.observe("reward/total_mean", returns[mask.any(1)].tolist())
        tally.add("group/zero_std_fraction", zero_std_fraction(returns, size, counted))
        if self.config.reward.credit.name == "sparse":
            leave_one_out = method.baseline is Baseline.leave_one_out
            how = {"scale_std": method.scale_std, "leave_one_out": leave_one_out}
            scores = group_advantages(returns, size, **how, counted=counted)
            advantages = scores.unsqueeze(1) * mask
        else:
            advantages = group_centred(reward_to_go(rewards, mask), mask, size, scale_std=method.scale_std)
        add_advantages(tally, advantages, mask)
        return {"advantages": advantages}, tally

    def log_ratio(self, batch: Batch, logprobs: Tensor) -> Tensor:
        """log pi - log pi_old: (B, T), a token's own or its response's mean."""
        own = super().log_ratio(batch, logprobs)
        return sequence_log_ratio(own, batch.mask) if self.method.ratio is RatioLevel.sequence else own

    def policy_loss(self, batch: Batch, out: TokenStats) -> Loss:
        tally, method = Tally(), self.method
        per_token = self.surrogate(batch, out, tally)
        if method.kl.place is KLPlace.loss and self.kl.coef > 0:
            per_token = per_token + self.kl.coef * self._kl(batch, out.logprobs)
        weights = token_weights(
            batch.mask,
            per_response=method.loss_length is LossLength.response,
            constant=float(self.config.rollout.new_tokens) if method.loss_length is LossLength.constant else None,
            tokens=batch.size.tokens,
            responses=batch.size.rows,
        )
        return Loss(masked_sum(per_token * weights, batch.mask), tally)

    def _kl(self, batch: Batch, logprobs: Tensor) -> Tensor:
        """(B, T) nats, by the configured estimator."""
        ref_logprobs = batch.columns["ref_logprobs"]
        match self.method.kl.estimator:
            case KLEstimator.k1:
                return kl.k1(logprobs, ref_logprobs)
            case KLEstimator.k2:
                return kl.k2(logprobs, ref_logprobs)
            case KLEstimator.k3:
                return kl.k3(logprobs, ref_logprobs)
            case KLEstimator.k3_corrected:
                return super().log_ratio(batch, logprobs).exp() * kl.k3(logprobs, ref_logprobs)
