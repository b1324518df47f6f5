"""KL from the policy to the reference, estimated on responses that the policy sampled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from align.evaluation.perplexity import micro_batches
from align.functional.kl import k1, k3
from align.functional.masked import masked_sum
from align.models.policy import Policy
from align.types import Rollout


def kl_summary(policy: Policy, reference: Policy, rollout: Rollout, temperature: float, rows: int) -> dict[str, float]:
    """k1 and k3 in nats, per response (sum over its tokens, mean over responses) and per token (sum over all tokens /
    their number), with k1's standard error over responses (NaN for a single one).

    Args:
        rollout: Responses sampled from `policy` at `temperature`.
        rows: Sequences per forward pass, at most.
    """
    first, third = _kl_per_response(policy, reference, rollout, temperature, rows)
    tokens = int(rollout.lengths.sum())
    n = len(rollout)
    return {
        "per_response_k1": float(first.mean()),
        "per_response_k1_se": float(first.std(correction=1)) / math.sqrt(n) if n > 1 else math.nan,
        "per_response_k3": float(third.mean()),
        "per_token_k1": float(first.sum()) / tokens,
        "per_token_k3": float(third.sum()) / tokens,
    }


@torch.no_grad()
def _kl_per_response(
    policy: Policy, reference: Policy, rollout: Rollout, temperature: float, rows: int
) -> tuple[Tensor, Tensor]:
    """k1 and k3 summed over each response's tokens: (B,) and (B,) float64."""
    first = torch.zeros(len(rollout), dtype=torch.float64)
    third = torch.zeros_like(first)
    vocabulary = policy.model.config.get_text_config().vocab_size
    for index in micro_batches(rollout.attention_mask.sum(1).cpu(), vocabulary, rows):
        part = rollout.rows(index.to(policy.device))
        logp, ref_logp = (model.response_logprobs(part, temperature) for model in (policy, reference))
        first[index] = masked_sum(k1(logp, ref_logp).double(), part.response_mask, dim=1).cpu()
        third[index] = masked_sum(k3(logp, ref_logp).double(), part.response_mask, dim=1).cpu()
    return first, third
