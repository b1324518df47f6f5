"""Where a score comes from, and how it is spread over tokens."""

from align.rewards.base import Source, reward_input
from align.rewards.credits import Credit, build_credit
from align.rewards.gold import GoldSource
from align.rewards.reward_model import RewardModelSource

__all__ = ["Credit", "GoldSource", "RewardModelSource", "Source", "build_credit", "reward_input"]
