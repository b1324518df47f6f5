"""Log-probabilities of given tokens, and entropy. All logits are divided by the sampling temperature."""

from typing import Any

import torch
from torch import Tensor

_CACHED, _LAUNCHED = 2**20, 2**27  # logits processed at once, on a CPU (its cache) and elsewhere (memory)


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute log p(ids) under softmax(logits / temperature), a few rows at a time: (...) float32, nats.

    `logits` (..., V) of any float type predict the tokens in `ids` (...) int64 at the same places.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    return _TokenLogprobs.apply(rows, ids.reshape(-1, 1), temperature).view(ids.shape)


class _TokenLogprobs(torch.autograd.Function):
    """Log-probabilities with one saved tensor, of the logits' type, where plain autograd keeps six of N x V in fp32."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        """Compute (N,) from logits (N, V) and ids (N, 1)."""
        at_once, buffer = _rows_at_once(logits), _buffer(logits)
        sums = torch.cat([_log_sum(_scaled(part, temperature, buffer)) for part in logits.split(at_once)])
        ctx.save_for_backward(logits, ids, sums)
        ctx.temperature = temperature
        return logits.gather(-1, ids).squeeze(-1).float() / temperature - sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Compute d log p_i / d logit_j = ([i = j] - p_j) / temperature."""
        logits, ids, sums = ctx.saved_tensors
        scale = (gradients[0] / ctx.temperature).unsqueeze(-1)
        out = torch.empty_like(logits)
        at_once, buffer = _rows_at_once(logits), _buffer(logits)
        parts = (t.split(at_once) for t in (logits, ids, sums.unsqueeze(-1), scale, out))
        for part, i, total, size, place in zip(*parts, strict=True):
            p = _scaled(part, ctx.temperature, buffer).sub_(total).exp_()
            place.copy_(p.mul_(-size).scatter_add_(-1, i, size))
        return out, None, None


def _rows_at_once(logits: Tensor) -> int:
    """Return how many rows of (N, V) are processed at once."""
    return max(1, (_CACHED if logits.device.type == "cpu" else _LAUNCHED) // logits.shape[1])


def _buffer(logits: Tensor) -> Tensor:
    """Allocate (R, V) float32 for all parts of (N, V); a new buffer per part costs page faults."""
    return torch.empty(min(_rows_at_once(logits), len(logits)), logits.shape[1], device=logits.device)


def _scaled(part: Tensor, temperature: float, buffer: Tensor) -> Tensor:
    """Compute part / temperature in float32, in the buffer's first rows."""
    scaled = buffer[: len(part)].copy_(part)
    return scaled if temperature == 1 else scaled.div_(temperature)


def _log_sum(scaled: Tensor) -> Tensor:
    """Compute log sum exp of each row (R, V) -> (R,), in place."""
    top = scaled.amax(-1, keepdim=True)
    return scaled.sub_(top).exp_().sum(-1).log_().add_(top.squeeze(-1))


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the entropy of softmax(logits / temperature): (..., V) -> (...) float32, nats.

    log s - sum(e z) / s with z = logits - max, e = exp z, s = sum e: one exponential per logit and no logarithm, on few
    enough rows at once for the cache, and without a copy of logits that are a slice of others.
    """
    if logits.dim() > 2:
        return torch.stack([entropy(one, temperature) for one in logits])
    rows = logits.reshape(-1, logits.shape[-1])
    z, e = _buffer(rows), _buffer(rows)
    parts = rows.split(_rows_at_once(rows))
    return torch.cat([_entropy(_scaled(p, temperature, z), e[: len(p)]) for p in parts]).view(logits.shape[:-1])


def _entropy(z: Tensor, e: Tensor) -> Tensor:
    """Compute the entropy of (R, V) float32 -> (R,), in place; e (R, V) is work space."""
    z.sub_(z.amax(-1, keepdim=True))
    total = torch.exp(z, out=e).sum(-1)
    z.clamp_(min=torch.finfo(torch.float32).min)  # so that e * z is 0 for a logit of -inf
    return total.log() - torch.linalg.vecdot(e, z) / total
