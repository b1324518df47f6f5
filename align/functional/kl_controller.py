"""The coefficient of the KL penalty over a run."""

from __future__ import annotations

import math


def adapted_coef(coef: float, kl: float, *, target: float, responses: int, horizon: int) -> float:
    """coef * (1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon): Ziegler et al., arXiv 1909.08593, 2.2.

    Args:
        kl: KL to the reference of this rollout, nats per response (k1 mean; it may be negative on a sample).
        target: Nats per response.
        responses: Sampled in this rollout.
        horizon: Responses over which a sustained error of 20% changes the coefficient by a factor of about e^0.2.
    """
    if math.isnan(kl):  # a rollout that no update will be made on; the coefficient would never recover
        return coef
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * responses / horizon)
