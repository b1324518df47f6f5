"""Log-probabilities of given tokens. All logits are divided by the sampling temperature, whoever's they are."""

from __future__ import annotations

import torch
from torch import Tensor

_CACHED, _LAUNCHED = 2**20, 2**27  # logits that are worked on at once: on a CPU few, elsewhere as many as memory allows


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
    """Entropy of softmax(logits / temperature): (..., V) -> (...) float32, nats.

    log s - sum(e z) / s with z = logits - max, e = exp z, s = sum e: one exponential a logit and no logarithm, on few
    enough rows at once that they stay in the cache, and without a copy of logits that are a slice of others.
    """
    if logits.dim() > 2:
        return torch.stack([entropy(one, temperature) for one in logits])
    rows = logits.reshape(-1, logits.shape[-1])
    at_once = max(1, (_CACHED if logits.device.type == "cpu" else _LAUNCHED) // rows.shape[1])
    parts = [_entropy(part.float() / temperature) for part in rows.split(at_once)]
    return torch.cat(parts).view(logits.shape[:-1])


def _entropy(scaled: Tensor) -> Tensor:
    """(R, V) float32 -> (R,)."""
    z = scaled - scaled.amax(-1, keepdim=True)
    e = z.exp()
    total = e.sum(-1)
    finite = z.clamp_(min=torch.finfo(torch.float32).min)  # 0 for a token that a model rules out with a logit of -inf
    return total.log() - torch.linalg.vecdot(e, finite) / total
