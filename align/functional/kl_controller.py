"""Controller of the KL penalty's coefficient over a run."""

from __future__ import annotations

import math


def adapted_coef(coef: float, kl: float, *, target: float, responses: int, horizon: int) -> float:
    """Compute coef * (1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon): arXiv 1909.08593, section 2.2.

    Args:
        kl: KL to the reference of this rollout, nats per response (k1 mean; it may be negative on a sample).
        target: Nats per response.
        responses: Sampled in this rollout.
        horizon: Responses over which a sustained error of 20% changes the coefficient by a factor of about e^0.2.
    """
    if math.isnan(kl):  # the rollout is not used; the coefficient would stay NaN
        return coef
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * responses / horizon)
