"""KL to the reference and entropy on responses that the policy sampled; sizes of forward passes with logits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from align.activity import Activity
from align.engine.reference import Policy
from align.functional.batching import token_batches
from align.functional.kl import k1, k3
from align.functional.masked import masked_sum
from align.types import Rollout

LOGIT_ELEMENTS = 2**27  # most logits (positions times vocabulary) in one forward pass: 0.5 GB in fp32


def logit_budget(config: PreTrainedConfig) -> int:
    """Return the most tokens of one forward pass of a model: LOGIT_ELEMENTS over its vocabulary."""
    return max(1, LOGIT_ELEMENTS // config.get_text_config().vocab_size)


def micro_batches(lengths: Tensor, config: PreTrainedConfig, rows: int) -> list[Tensor]:
    """Split rows (n,), sorted by length, into index groups of at most `rows` rows and the model's `logit_budget`."""
    groups = token_batches(lengths, logit_budget(config))
    return [part for group in groups for part in group.split(rows)]


@dataclass(frozen=True)
class Divergence:
    """Sums over each response's tokens, float64, nats."""

    k1: Tensor  # (B,)
    k3: Tensor  # (B,)
    entropy: Tensor  # (B,) of the policy's next-token distributions
    lengths: Tensor  # (B,) tokens

    def kl(self) -> dict[str, float]:
        """Compute k1 and k3 in nats per response and per token, each with its standard error over responses.

        Per response is the mean of the sums, per token the sum over all tokens divided by their number. That is a ratio
        of two sums, whose error is that of the residuals sum_t d - ratio * T (Cochran 1977, equation 6.13). Errors are
        NaN for a single response.
        """
        figures, terms = {}, (("k1", self.k1), ("k3", self.k3))
        for name, values in terms:
            figures[f"per_response_{name}"] = float(values.mean())
            figures[f"per_response_{name}_se"] = _standard_error(values)
        for name, values in terms:
            ratio = float(values.sum() / self.lengths.sum())
            figures[f"per_token_{name}"] = ratio
            residuals = (values - ratio * self.lengths) / self.lengths.double().mean()
            figures[f"per_token_{name}_se"] = _standard_error(residuals)
        return figures

    def entropy_per_token(self) -> float:
        """Compute the mean entropy over all tokens, nats."""
        return float(self.entropy.sum() / self.lengths.sum())


def _standard_error(values: Tensor) -> float:
    n = len(values)
    return float(values.std(correction=1)) / math.sqrt(n) if n > 1 else math.nan


@torch.no_grad()
def divergence(
    policy: Policy,
    reference: Policy,
    rollout: Rollout,
    temperature: float,
    rows: int,
    activity: Activity | None = None,
) -> Divergence:
    """Compute KL and entropy of `policy` on a rollout that it sampled at `temperature`, by passes of at most `rows`."""
    sums = torch.zeros(3, len(rollout), dtype=torch.float64)
    parts = micro_batches(rollout.attention_mask.sum(1).cpu(), policy.model.config, rows)
    for index in (activity or Activity()).over(parts, "responses read for the KL", len(rollout)):
        part = rollout.rows(index.to(policy.device))
        stats = policy(part, temperature)
        ref_logp = reference.response_logprobs(part, temperature)
        terms = (k1(stats.logprobs, ref_logp), k3(stats.logprobs, ref_logp), stats.entropy)
        for row, term in zip(sums, terms, strict=True):
            row[index] = masked_sum(term.double(), part.response_mask, dim=1).cpu()
    return Divergence(sums[0], sums[1], sums[2], rollout.lengths.cpu())
