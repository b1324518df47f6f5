"""Answering prompts in another way than with one sample of the policy each."""

from collections.abc import Sequence
from typing import Protocol

from align.engine.sampling import Noise
from align.types import Prompt, Rollout


class Responder(Protocol):
    """A distribution over responses that is not a model's: its KL cannot be estimated from log-probabilities."""

    kl_upper_bound: float  # to the start model, nats per response
    kl_formula: str  # of that bound, and where it is proven

    def __call__(self, prompts: Sequence[Prompt], noise: Noise) -> Rollout:
        """One response to each prompt, in their order."""
        ...
