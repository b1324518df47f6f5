"""GRPO (arXiv 2402.03300): clipped PPO whose baseline is the group of responses to the same prompt, without a critic.

A sparse reward gives a response one advantage. A dense one gives each token its reward-to-go, centred over the group's
tokens: a scheme that only redistributes a fixed sum would change nothing if it were summed to a scalar first.
"""

from __future__ import annotations

from torch import Tensor

from align.algorithms.on_policy import OnPolicyTrainer, Scored
from align.config.methods import Baseline, GRPOConfig, KLEstimator, KLPlace, LossLength
from align.functional import kl
from align.functional.groups import (
    group_advantages,
    group_centred,
    reward_to_go,
    token_weights,
    zero_std_fraction,
)
from align.functional.losses import log_ratio
from align.functional.masked import masked_sum
from align.metrics import Tally
from align.types import Experience


class GRPOTrainer(OnPolicyTrainer):
    method: GRPOConfig

    def samples_per_prompt(self) -> int:
        return self.method.group_size

    def rewards_read_policy(self) -> bool:
        return self.method.kl.place is KLPlace.reward and self.method.kl.coef > 0

    def learn_from(self, scored: Scored, tally: Tally) -> Experience:
        mask, size = scored.rollout.response_mask, self.method.group_size
        rewards = scored.penalised(self.kl_coef) if self.rewards_read_policy() else scored.token_rewards
        returns = rewards.sum(1)
        tally.observe("reward/total_mean", returns.tolist())
        tally.add("group/zero_std_fraction", zero_std_fraction(returns, size))
        if self.config.reward.credit.name == "sparse":
            leave_one_out = self.method.baseline is Baseline.leave_one_out
            advantages = (
                group_advantages(returns, size, scale_std=self.method.scale_std, leave_one_out=leave_one_out).unsqueeze(
                    1
                )
                * mask
            )
        else:
            togo = reward_to_go(rewards, mask)
            advantages = group_centred(togo, mask, size, scale_std=self.method.scale_std)
        counted = advantages[mask == 1].tolist()
        for name in ("mean", "std", "min", "max"):
            tally.observe(f"advantage/{name}", counted)
        old = {} if scored.logprobs is None else {"logprobs": scored.logprobs}
        return Experience(scored.rollout, old | {"ref_logprobs": scored.ref_logprobs, "advantages": advantages})

    def backward(self, part: Experience, tokens: int, tally: Tally) -> float:
        mask, method = part.rollout.response_mask, self.method
        stats = self.policy_stats(part)
        per_token = self.policy_loss(
            part, stats, method.clip_range, method.clip_high or method.clip_range, method.ratio, tally
        )
        if method.kl.place is KLPlace.loss and self.kl_coef > 0:
            per_token = per_token + self.kl_coef * self._kl(stats.logprobs, part)
        del stats  # and with it the logits, which backward would have beside their gradient
        loss = masked_sum(per_token * self._weights(mask, tokens), mask)
        with self.run.roles.policy.active():
            self.run.accelerator.backward(loss)
        return float(loss.detach())

    def _kl(self, logprobs: Tensor, part: Experience) -> Tensor:
        ref_logprobs = part.columns["ref_logprobs"]
        match self.method.kl.estimator:
            case KLEstimator.k1:
                return kl.k1(logprobs, ref_logprobs)
            case KLEstimator.k2:
                return kl.k2(logprobs, ref_logprobs)
            case KLEstimator.k3:
                return kl.k3(logprobs, ref_logprobs)
            case KLEstimator.k3_corrected:
                ratio = log_ratio(logprobs, self.old_logprobs(part, logprobs), part.rollout.response_mask).exp()
                return ratio * kl.k3(logprobs, ref_logprobs)

    def _weights(self, mask: Tensor, tokens: int) -> Tensor:
        length = self.method.loss_length
        return token_weights(
            mask,
            per_response=length is LossLength.response,
            constant=float(self.config.rollout.max_new_tokens) if length is LossLength.constant else None,
            tokens=tokens,
            responses=self.method.minibatch_size,
        )
