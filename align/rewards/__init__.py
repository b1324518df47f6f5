"""Where a score comes from, and how it is spread over tokens."""

from align.rewards.base import Source, frozen, load_state, reward_input, state
from align.rewards.build import Builder, load_functions
from align.rewards.credits import Credit, build_credit
from align.rewards.gold import GoldSource
from align.rewards.learned import RewardModelSource
from align.rewards.reference import References

__all__ = [
    "Builder",
    "Credit",
    "GoldSource",
    "References",
    "RewardModelSource",
    "Source",
    "build_credit",
    "frozen",
    "load_functions",
    "load_state",
    "reward_input",
    "state",
]
