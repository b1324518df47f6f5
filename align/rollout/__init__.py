"""Sampling responses from the policy."""

from align.rollout.sampling import Noise, sample

__all__ = ["Noise", "sample"]
