"""The coefficient beta of the KL penalty over a run, and the KL at which a run ends."""

import math

from align.config.methods import KLConfig, KLController
from align.loop.protocol import Stop


class KLControl:
    """Fixed or adaptive coefficient, under a budget."""

    def __init__(self, config: KLConfig, responses: int) -> None:
        """`responses` of each rollout."""
        self._config, self._responses = config, responses
        self.coef = config.coef

    def adapt(self, kl: float) -> Stop | None:
        """Take note of a rollout's KL, nats per response: beyond the budget the run ends, else beta follows it.

        A new coefficient holds for the next rollout's rewards, and from now on for a KL in the loss (GRPO).
        """
        config = self._config
        if config.budget is not None and kl > config.budget:
            return Stop(f"KL of {kl:.2f} nats per response is over method.kl.budget={config.budget}")
        if config.controller is KLController.adaptive:
            n, horizon = self._responses, config.horizon
            self.coef = adapted_coef(self.coef, kl, target=config.target, responses=n, horizon=horizon)
        return None


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
