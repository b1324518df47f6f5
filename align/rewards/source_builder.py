"""Building of sources from their configuration: models, scale and parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.activity import Activity
from align.config import (
    CompositeSource,
    CriticInit,
    EnsembleSource,
    FunctionSource,
    GoldSource,
    Normalise,
    NoSource,
    RewardModelSource,
    RulesSource,
    SourceConfig,
)
from align.engine.roles import Roles
from align.errors import InputError
from align.rewards.base import Source
from align.rewards.combined import CompositeScorer, EnsembleScorer
from align.rewards.cross_tokenizer import load_cross_tokenizer
from align.rewards.function import FunctionScorer
from align.rewards.function_call import Signature
from align.rewards.function_state import Function
from align.rewards.normalise import Fixed, Folded, Running, Scaled
from align.rewards.reference import References, scale_of
from align.rewards.rules import RulesScorer, check_rows
from align.rewards.scorers import GoldScorer, RewardModelScorer
from align.types import Prompt
from align.user_files import make_callable, release
from align.worlds import World


def _function_paths(config: SourceConfig) -> dict[str, str]:
    """Return FILE.py:NAME of every user's function by the key of its source."""
    return {key: part.path for key, part in config.every().items() if isinstance(part, FunctionSource)}


def load_functions(config: SourceConfig) -> dict[str, Function]:
    """Make what the user's functions call, by the key of their source, for one run (align/user_files.py)."""
    paths = _function_paths(config)
    try:
        return {key: make_callable(path, f"{key}.path") for key, path in paths.items()}
    finally:
        release(paths.values())


def check_columns(config: SourceConfig, functions: Mapping[str, Function], prompts: Sequence[Prompt]) -> None:
    """Raise InputError where a user's function has a parameter that the data has no column for."""
    for key, path in _function_paths(config).items():
        Signature(functions[key]).check_columns(prompts, path, f"{key}.path")


@dataclass
class Builder:
    """Builder of a source and its parts.

    Reward models are taken in the order of `SourceConfig.models()`: those that read the policy's tokens from `roles`,
    cross-tokenizer ones from their folders. `scales` collects, by the source's key, the mean and deviation of
    normalise=reference, and the number of responses behind them.
    """

    roles: Roles
    references: References
    world: World | None
    prompts: Sequence[Prompt]  # all prompts to be scored: rules are checked against their rows
    functions: Mapping[str, Function] = field(default_factory=dict)  # of `load_functions`
    cross_tokenizer: Mapping[int, Path] = field(default_factory=dict)  # folders by place in models()
    needs: frozenset[str] = frozenset()  # signals that the credit scheme needs
    scales: dict[str, dict[str, float]] = field(default_factory=dict)
    activity: Activity = field(default_factory=Activity)
    max_steps: int = 0  # updates of the run

    def __post_init__(self) -> None:
        self._models = iter(self.roles.rewards)
        self._taken = 0

    def build(self, config: SourceConfig, key: str = "reward.source") -> Source:
        """Build the source of `config`, whose errors name `key`.

        Raises InputError for a gold reward without a world, or normalise=reference where all responses score the same.
        """
        match config:
            case NoSource():
                return Source()
            case RewardModelSource():
                return self._reward_model(config, key)
            case EnsembleSource():
                members = [self._reward_model(m, f"{key}.member_{i}") for i, m in enumerate(config.models())]
                source: Source = EnsembleScorer(members, config.combine, config.penalty)
            case GoldSource():
                if self.world is None:
                    raise InputError("data.world", None, "the world whose gold reward is the source")
                source = GoldScorer(self.world)
            case RulesSource():
                check_rows(config, self.prompts, key)
                source = RulesScorer(config)
            case FunctionSource():
                source = self._function(config, key)
            case CompositeSource():
                parts = {name: self.build(part, f"{key}.parts.{name}") for name, part in config.parts.items()}
                source = CompositeScorer(parts, config.weights)
            case _:
                raise TypeError(f"no source for {type(config).__name__}")
        return self._on_scale(source, config, key)

    def _function(self, config: FunctionSource, key: str) -> Source:
        function, of_run = self.functions[key], (self.max_steps, self.references.say)
        return FunctionScorer(function, config.returns, config.path, f"{key}.path", *of_run)

    def _reward_model(self, config: RewardModelSource, key: str) -> Source:
        """Build the scorer of one reward model.

        normalise=reference is folded into the model's head, and into that of a critic that starts as this model.
        """
        place, self._taken = self._taken, self._taken + 1
        if place in self.cross_tokenizer:
            folder, roles = self.cross_tokenizer[place], self.roles
            on: dict[str, Any] = {"device": roles.policy.device, "dtype": roles.policy.dtype, "engine": roles.engine}
            on |= {"needs": self.needs, "activity": self.activity}
            return self._on_scale(load_cross_tokenizer(folder, f"{key}.path", **on), config, key)
        head = next(self._models)
        source: Source = RewardModelScorer(head, activity=self.activity)
        if config.normalise is not Normalise.reference:
            return self._on_scale(source, config, key)
        mean, std = self._reference(source, config, key)
        head.rescale(mean, std)
        starts_critic = head is self.roles.reward and self.roles.critic_from is CriticInit.reward_model
        if self.roles.critic is not None and starts_critic:
            self.roles.critic.rescale(mean, std)
        source = Folded(source, mean, std)
        return source if config.clip is None else Scaled(source, None, config.clip)

    def _on_scale(self, source: Source, config: SourceConfig, key: str) -> Source:
        """Wrap `source` in the normalisation and the clip of its configuration."""
        scale: Fixed | Running | None = None
        if config.normalise is Normalise.reference:
            scale = Fixed(*self._reference(source, config, key))
        elif config.normalise is Normalise.running:
            scale = Running()
        return source if scale is None and config.clip is None else Scaled(source, scale, config.clip)

    def _reference(self, source: Source, config: SourceConfig, key: str) -> tuple[float, float]:
        batch = self.references.batch(getattr(config, "seed", 0), config.reference_responses)
        mean, std = scale_of(source, batch, key)
        self.scales[key] = {"raw_mean": mean, "raw_std": std, "responses": len(batch.responses)}
        return mean, std
