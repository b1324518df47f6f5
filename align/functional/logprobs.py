"""Log-probabilities of given tokens. All logits are divided by the sampling temperature, whoever's they are."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(ids) under softmax(logits / temperature), in fp32.

    Args:
        logits: (..., V), any float type; the row that predicts the token in `ids` at the same place.
        ids: (...) int64.

    Returns:
        (...) float32, nats.
    """
    scaled = logits.float() / temperature
    return scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of softmax(logits / temperature): (..., V) -> (...) float32, nats."""
    p = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.special.entr(p).sum(-1)  # 0 for a token that a model rules out with a logit of -inf
