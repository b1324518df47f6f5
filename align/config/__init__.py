"""Define the configuration of a run as typed dataclasses: the one place of a default, which YAML files only explain.

`align.config.io` composes, reads and writes configurations and is the only module here that imports Hydra. None
imports torch.
"""

from align.config.base import Section
from align.config.credits import (
    AttentionCredit,
    AutoCredit,
    CreditConfig,
    ImplicitCredit,
    NoCredit,
    PrefixCredit,
    PrefixStep,
    SpansCredit,
    SparseCredit,
    TruthCredit,
    UniformCredit,
)
from align.config.data import BadRows, Caching, DataConfig, PromptOverflow
from align.config.judge import TRAIN, JudgeConfig
from align.config.method_bases import CriticInit, LoopConfig, LRSchedule, MethodConfig, OptimizedConfig
from align.config.mixture import MixtureSource
from align.config.schema import (
    AdapterConfig,
    CheckpointConfig,
    Config,
    ControlTokensIn,
    Device,
    EngineKind,
    EvaluationConfig,
    ModelConfig,
    Precision,
    QuantizationConfig,
    RewardConfig,
    RolloutConfig,
    TemplateMismatch,
    TrackingConfig,
    TrackingMode,
    Truncated,
    VerdictsConfig,
)
from align.config.shapes import AssistantTurns, Examples, RankedPairs, Shape
from align.config.sources import (
    Combine,
    CompositeSource,
    EnsembleSource,
    FunctionSource,
    GoldSource,
    Normalise,
    NoSource,
    Returns,
    RewardModelSource,
    RulesSource,
    SourceConfig,
    TrainedOn,
)
