"""Rewards: sources of scores, and credit schemes that spread a score over tokens."""

from align.rewards.base import Source, given_input, reward_input
from align.rewards.credit_schemes import Credit, build_credit
from align.rewards.reference import References
from align.rewards.scorers import GoldScorer, RewardModelScorer
from align.rewards.source_builder import Builder, check_columns, load_functions

__all__ = [
    "Builder",
    "Credit",
    "GoldScorer",
    "References",
    "RewardModelScorer",
    "Source",
    "build_credit",
    "check_columns",
    "given_input",
    "load_functions",
    "reward_input",
]
