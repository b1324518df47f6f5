"""The zero and the unit of a reward: mean and deviation of its scores on the start model's own responses.

With both set, beta and every threshold mean the same for every reward model (Ziegler et al., arXiv 1909.08593, section
2.1: the reward model is normalised to mean 0 and variance 1 under the start policy).
"""

from __future__ import annotations

from collections.abc import Sequence

from align.errors import InputError
from align.models.codec import ChatCodec
from align.models.policy import Policy
from align.rewards.base import Source, reward_input
from align.rollout.sampling import Noise, sample
from align.types import Prompt


def reference_scale(
    start: Policy,
    source: Source,
    codec: ChatCodec,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    max_new_tokens: int,
    temperature: float,
    decode_batch_size: int | None = None,
) -> tuple[float, float]:
    """(mean, population deviation) of raw scores, one sampled response to each prompt.

    Raises:
        InputError: All responses score the same, so there is no unit.
    """
    rollout = sample(
        start,
        codec,
        prompts,
        noise=Noise(seed, "reference"),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        decode_batch_size=decode_batch_size,
    )
    scores = source.score(reward_input(rollout, prompts, codec)).total.double()
    mean, std = float(scores.mean()), float(scores.std(unbiased=False))
    if not std > 1e-6:
        raise InputError("reward.source", f"scores with deviation {std:g}", "a reward model that tells responses apart")
    return mean, std
