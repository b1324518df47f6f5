"""Map every method, reward source and credit scheme to its dataclass, by the option's name. Imports no torch."""

from collections.abc import Mapping

from align.config import credits, methods, sources, trl
from align.config.base import Section
from align.config.method_bases import MethodConfig

METHODS: dict[str, type[MethodConfig]] = {
    "ppo": methods.PPOConfig,
    "grpo": methods.GRPOConfig,
    "dpo": methods.DPOConfig,
    "sft": methods.SFTConfig,
    "reward_model": methods.RewardModelMethodConfig,
    "best_of_n": methods.BestOfNConfig,
    "trl_dpo": trl.TRLDPOConfig,
    "trl_kto": trl.TRLKTOConfig,
    "trl_grpo": trl.TRLGRPOConfig,
    "trl_rloo": trl.TRLRLOOConfig,
}
SOURCES: dict[str, type[sources.SourceConfig]] = {
    "none": sources.NoSource,
    "reward_model": sources.RewardModelSource,
    "gold": sources.GoldSource,
    "ensemble": sources.EnsembleSource,
    "rules": sources.RulesSource,
    "function": sources.FunctionSource,
    "composite": sources.CompositeSource,
}
CREDITS: dict[str, type[credits.CreditConfig]] = {
    "none": credits.NoCredit,
    "auto": credits.AutoCredit,
    "sparse": credits.SparseCredit,
    "uniform": credits.UniformCredit,
    "prefix": credits.PrefixCredit,
    "attention": credits.AttentionCredit,
    "implicit": credits.ImplicitCredit,
    "spans": credits.SpansCredit,
    "truth": credits.TruthCredit,
}
POLYMORPHIC: dict[str, Mapping[str, type[Section]]] = {
    "method": METHODS,
    "reward.source": SOURCES,
    "reward.credit": CREDITS,
}
