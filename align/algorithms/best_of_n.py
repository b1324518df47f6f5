"""Best-of-n sampling, the base line that trains nothing: of n responses, the one that the reward source scores highest.

Its KL to the start model is at most log n - (n - 1) / n nats per response (Beirami et al., arXiv 2401.01879, theorem
1), and that bound is reported: the distribution has no log-probabilities from which to estimate it.
"""

import math
from collections.abc import Sequence

import torch

from align.config.methods import BestOfNConfig
from align.engine.responder import Responder
from align.engine.sampling import Noise
from align.loop.context import RunContext
from align.loop.method import Method
from align.rewards import reward_input
from align.types import Prompt, Rollout


class BestOfN(Method):
    @property
    def step(self) -> int:
        return 0

    def train(self) -> None:
        """Nothing: the start model stays as it is."""

    def responder(self) -> Responder:
        return BestResponder(self.run)


class BestResponder:
    """The first of the n responses is the one that the start model gives under the same noise."""

    kl_formula = "log n - (n - 1) / n: an upper bound, not an estimate (arXiv 2401.01879)"

    def __init__(self, run: RunContext) -> None:
        assert isinstance(run.config.method, BestOfNConfig)
        self._run = run
        self._n = run.config.method.n
        self.kl_upper_bound = math.log(self._n) - (self._n - 1) / self._n

    def __call__(self, prompts: Sequence[Prompt], noise: Noise) -> Rollout:
        run = self._run
        rollout = run.sample(prompts, noise, self._n)
        repeated = [p for p in prompts for _ in range(self._n)]
        scores = run.source.score(reward_input(rollout, repeated, run.chat)).total
        groups = scores.nan_to_num(nan=-math.inf).view(len(prompts), self._n)
        first = torch.arange(len(prompts), device=scores.device) * self._n
        return rollout.rows(first + groups.argmax(1))  # of equals the first
