"""Sums, means and whitening over the positions that count (mask 1). Whatever stands elsewhere changes nothing."""

from __future__ import annotations

from torch import Tensor


def zero_outside(x: Tensor, mask: Tensor) -> Tensor:
    """x where mask is 1, else 0; unlike a product this also silences nan and inf at masked positions."""
    return x.masked_fill(mask == 0, 0)


def scattered(values: Tensor, where: Tensor) -> Tensor:
    """values (M,) at the M places that `where` (B, T) picks, 0 at all others: (B, T)."""
    return values.new_zeros(where.shape).masked_scatter(where, values)


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of x over mask: a scalar, or one sum per remaining row where `dim` is given."""
    x = zero_outside(x, mask)
    return x.sum() if dim is None else x.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of x over mask; 0 where nothing counts."""
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Population variance of x over mask (divided by n, so that one position has variance 0)."""
    x = zero_outside(x, mask)  # before the square, whose gradient would carry a nan over
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """x scaled to unit variance over mask, 0 outside it.

    Args:
        shift_mean: True for advantages (mean becomes 0), False for rewards (the mean is kept: a constant reward is
            information). N+ implementation details, "reward and advantage whitening", arXiv 2403.17031.
    """
    x = zero_outside(x, mask)
    mean = masked_mean(x, mask)
    scaled = (x - mean) * (masked_var(x, mask) + eps).rsqrt()
    return zero_outside(scaled if shift_mean else scaled + mean, mask)
