"""Map every method, reward source and credit scheme to its dataclass, by the option's name. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from align.config.base import Section
from align.config.credits import (
    AttentionCredit,
    CreditConfig,
    ImplicitCredit,
    PrefixCredit,
    SpansCredit,
    SparseCredit,
    TruthCredit,
    UniformCredit,
)
from align.config.method_bases import MethodConfig
from align.config.methods import (
    BestOfNConfig,
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    RewardModelMethodConfig,
    SFTConfig,
)
from align.config.sources import (
    CompositeSource,
    EnsembleSource,
    FunctionSource,
    GoldSource,
    RewardModelSource,
    RulesSource,
    SourceConfig,
)
from align.config.trl import TRLDPOConfig, TRLGRPOConfig, TRLKTOConfig, TRLRLOOConfig

METHODS: dict[str, type[MethodConfig]] = {
    "ppo": PPOConfig,
    "grpo": GRPOConfig,
    "dpo": DPOConfig,
    "sft": SFTConfig,
    "reward_model": RewardModelMethodConfig,
    "best_of_n": BestOfNConfig,
    "trl_dpo": TRLDPOConfig,
    "trl_kto": TRLKTOConfig,
    "trl_grpo": TRLGRPOConfig,
    "trl_rloo": TRLRLOOConfig,
}
SOURCES: dict[str, type[SourceConfig]] = {
    "reward_model": RewardModelSource,
    "gold": GoldSource,
    "ensemble": EnsembleSource,
    "rules": RulesSource,
    "function": FunctionSource,
    "composite": CompositeSource,
}
CREDITS: dict[str, type[CreditConfig]] = {
    "sparse": SparseCredit,
    "uniform": UniformCredit,
    "prefix": PrefixCredit,
    "attention": AttentionCredit,
    "implicit": ImplicitCredit,
    "spans": SpansCredit,
    "truth": TruthCredit,
}
POLYMORPHIC: dict[str, Mapping[str, type[Section]]] = {
    "method": METHODS,
    "reward.source": SOURCES,
    "reward.credit": CREDITS,
}
