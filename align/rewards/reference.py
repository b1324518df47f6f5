"""Scale of a reward: mean and deviation of its scores on the start model's own responses.

On this scale beta and every threshold mean the same for every reward model (Ziegler et al., arXiv 1909.08593, section
2.1: normalised to mean 0 and variance 1 under the start policy).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from align.activity import Activity
from align.config import RolloutConfig
from align.engine.protocol import LanguageModel
from align.engine.sampling import Noise, sample_as_configured
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards.base import Source, reward_input
from align.streams import permutation
from align.types import Prompt, RewardInput


def scale_of(source: Source, batch: RewardInput, key: str = "reward.source") -> tuple[float, float]:
    """Compute (mean, population deviation) of the scores of `batch`; raise InputError where all are the same.

    A response to which the source does not apply is left out.
    """
    out = source.score(batch)
    scores = out.total[out.scored].double()
    mean, std = float(scores.mean()), float(scores.std(unbiased=False))
    if not std > 1e-6:
        allowed = "a reward that tells the start model's responses apart, or normalise=none or running"
        raise InputError(key, f"scores with deviation {std:g}", allowed)
    return mean, std


@dataclass
class References:
    """The start model's own responses to training prompts, sampled when first needed and then kept."""

    start: LanguageModel
    chat: ChatTokenizer
    prompts: Sequence[Prompt]
    rollout: RolloutConfig
    say: Callable[[str], None] = lambda line: None
    batches: dict[tuple[int, int], RewardInput] = field(default_factory=dict)  # by seed and number
    activity: Activity = field(default_factory=Activity)

    def batch(self, seed: int, wanted: int) -> RewardInput:
        """Return `wanted` responses, one to each of a choice of prompts by `seed`; fewer with fewer prompts."""
        if (seed, wanted) not in self.batches:
            order = permutation(len(self.prompts), seed, "reference prompts")[:wanted]
            prompts = [self.prompts[i] for i in order.tolist()]
            if len(prompts) < wanted:
                self.say(f"reward scale set on {len(prompts)} responses: there are no more training prompts")
            noise = Noise(seed, "reference")
            rollout = sample_as_configured(self.rollout, self.start, self.chat, prompts, noise, activity=self.activity)
            self.batches[seed, wanted] = reward_input(rollout, prompts, self.chat)
        return self.batches[seed, wanted]
