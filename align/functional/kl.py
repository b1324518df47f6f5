"""Estimators of KL(pi || pi_ref) from tokens sampled from pi (Schulman 2020, joschu.net/blog/kl-approx.html).

All take log-probabilities of the sampled tokens, (B, T) nats, and return one estimate per token. Summed over a
response, k1 and k3 are both unbiased for the KL of the response; k1 may be negative on a sample, k3 never is.
"""

from torch import Tensor

MAX_LOG_RATIO = 20.0  # exp(20) is finite in every float type used for losses (TRL issues 3015, 6637)


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate KL by log pi - log pi_ref: unbiased, high variance. As a loss its expected gradient is 0."""
    return logp - ref_logp


def k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate KL by half the squared log-ratio: biased, but with the gradient of each token's KL given its prefix."""
    return 0.5 * (logp - ref_logp) ** 2


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate KL by pi_ref/pi - 1 - log(pi_ref/pi): unbiased, non-negative. Its gradient is KL(pi_ref || pi)'s."""
    log_ratio = (ref_logp - logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return log_ratio.expm1() - log_ratio  # expm1: exp(x) - 1 loses all digits near 0
