"""Sums, means and whitening over the positions that count (mask 1); values elsewhere have no effect."""

from torch import Tensor


def zero_outside(x: Tensor, mask: Tensor) -> Tensor:
    """Set x to 0 where mask is 0; unlike a product this also removes nan and inf at masked positions."""
    return x.masked_fill(mask == 0, 0)


def scattered(values: Tensor, where: Tensor) -> Tensor:
    """values (M,) at the M places that `where` (B, T) picks, 0 at all others: (B, T)."""
    return values.new_zeros(where.shape).masked_scatter(where, values)


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of x over mask: a scalar, or one sum per remaining row where `dim` is given."""
    x = zero_outside(x, mask)
    return x.sum() if dim is None else x.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Compute the mean of x over mask; 0 where nothing counts."""
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Compute the population variance of x over mask (divided by n, so that one position has variance 0)."""
    x = zero_outside(x, mask)  # before the square, whose gradient would propagate a nan
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scale x to unit variance over mask; 0 outside mask.

    `shift_mean` is for advantages (mean becomes 0) and not for rewards (the mean is kept: a constant reward is
    information). N+ implementation details, "reward and advantage whitening", arXiv 2403.17031.
    """
    x = zero_outside(x, mask)
    mean = masked_mean(x, mask)
    scaled = (x - mean) * (masked_var(x, mask) + eps).rsqrt()
    return zero_outside(scaled if shift_mean else scaled + mean, mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over mask; 0 where the returns do not vary."""
    counts = mask.bool()
    returns, residual = returns[counts], (returns - values)[counts]
    variance = returns.var(unbiased=False)
    return float(1 - residual.var(unbiased=False) / variance) if variance > 1e-12 else 0.0
