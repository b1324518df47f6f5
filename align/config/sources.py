"""Define the options of the reward sources, which give a response its score. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

from align.config.base import MISSING, Section
from align.config.checks import automatic, finite, not_negative, positive, reward_model
from align.config.rules import (
    ExactRule,
    ForbiddenRule,
    FormatRule,
    LengthWindowRule,
    NumericRule,
    RegexRule,
    RepetitionRule,
    RuleConfig,
    WordLimitRule,
)
from align.config.values import AUTO, Rate
from align.errors import InputError
from align.user_files import find_callable

if TYPE_CHECKING:
    from align.config.schema import Config


class TrainedOn(Enum):
    """Positions at which a reward model's scores are trained."""

    end = "end"  # the end of whole responses
    prefixes = "prefixes"  # and, in a second stage, every prefix, towards the whole response's score


class Normalise(Enum):
    """Zero and unit of a source's scores."""

    none = "none"
    reference = "reference"  # mean and deviation of the scores of the start model's responses, once
    running = "running"  # mean and deviation of all scores in training so far


@dataclass
class SourceConfig(Section):
    """Base of the reward sources."""

    name: str = MISSING
    normalise: Normalise = Normalise.none
    clip: float | None = None  # normalised scores are clipped to [-clip, clip]; null = no clipping
    reference_responses: int = 256  # sampled from the start model to set the zero and unit of normalise=reference

    @property
    def offers(self) -> frozenset[str]:
        """Signals that the source gives beyond one score per response (fields of RewardOutput)."""
        return frozenset()

    def models(self) -> list[RewardModelSource]:
        """Reward models that the source scores with, in the order in which the source is given them."""
        return []

    def every(self, key: str = "reward.source") -> dict[str, SourceConfig]:
        """This source and its parts, by their keys."""
        return {key: self}

    def paid(self) -> list[SourceConfig]:
        """Summands of the score: this source, or its parts with a weight other than 0."""
        return [self]

    def check(self, config: Config, key: str) -> None:
        """Raise InputError on values that cannot run; `key` is the source's own in the whole composition."""
        positive(self, key, "clip", "reference_responses")


@dataclass
class NoSource(SourceConfig):
    """No reward: a method that learns from given pairs needs none, and its evaluation is what needs none either."""

    name: str = "none"

    def check(self, config: Config, key: str) -> None:
        if key != "reward.source":
            raise InputError(key, "none", "a source of scores")
        if config.method.needs_reward:
            raise InputError("reward/source", "none", f"a source of scores: method={config.method.name} needs a reward")
        for name, default in (("normalise", Normalise.none), ("clip", None)):
            if getattr(self, name) != default:
                raise InputError(f"{key}.{name}", getattr(self, name), "nothing: with reward=none nothing is scored")


@dataclass
class RewardModelTraining(SourceConfig):
    """Base of the sources whose reward models are trained on the run's preference pairs."""

    normalise: Normalise = Normalise.reference
    learning_rate: Rate = AUTO
    epochs: int = 2  # over training pairs, chosen on the embedded world's; 1 for a large model (arXiv 2203.02155, C.2)
    batch_size: int = 16  # pairs per optimizer update
    micro_batch_tokens: int | None = None  # padded tokens per forward and backward; null = by the model's size
    center_coef: float = 0.01  # lambda of mean((r_c + r_r)^2)
    seed: int = 0  # not the run's seed, so that a sweep over seeds shares one reward model
    trained_on: TrainedOn = TrainedOn.end
    allow_chance: bool = False  # true = also run on a reward model that is no better than chance on held-out pairs
    prefix_steps: int = 80  # updates of the second stage of trained_on=prefixes, of batch_size pairs each
    prefix_learning_rate: Rate = AUTO  # peak, of the second stage
    offers = frozenset({"prefix_scores", "attention"})

    def training(self) -> dict[str, Any]:
        """Collect the options that the trained weights depend on, as plain values: a part of the stored model's key.

        Options without effect are left out, so that models stored before those options existed are still found.
        """
        names = ["learning_rate", "epochs", "batch_size", "center_coef", "seed"]
        settings: dict[str, Any] = {"name": "reward_model"}
        if self.trained_on is not TrainedOn.end:
            names += ["prefix_steps", "prefix_learning_rate"]
            settings["trained_on"] = self.trained_on.value
        return settings | {name: getattr(self, name) for name in names}

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        automatic(self, key, "learning_rate", "prefix_learning_rate")
        positive(self, key, "epochs", "batch_size", "prefix_steps")
        positive(self, key, "micro_batch_tokens")
        not_negative(self, key, "center_coef", "seed")


@dataclass
class RewardModelSource(RewardModelTraining):
    """One reward model, given by path or trained on the run's preference pairs."""

    name: str = "reward_model"
    path: str | None = None  # a stored reward model or sequence classifier; null = trained once, then reused
    path_fields = ("path",)

    def models(self) -> list[RewardModelSource]:
        return [self]

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        reward_model(f"{key}.path", self.path)
        if self.path is not None and self.trained_on is not TrainedOn.end:
            raise InputError(f"{key}.trained_on", self.trained_on.name, f"end with {key}.path, which is taken as it is")


@dataclass
class GoldSource(SourceConfig):
    """The exactly known reward of the embedded world that `data.world` names."""

    name: str = "gold"
    offers = frozenset({"token_scores", "prefix_scores"})

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        if config.data.world is None:
            allowed = "reward_model: the gold reward is known only where data.world is set"
            raise InputError("reward/source", "gold", allowed)


class Combine(Enum):
    """How the scores of an ensemble's members are combined (Coste et al., arXiv 2310.02743, and a variant)."""

    mean = "mean"
    minimum = "minimum"  # worst-case optimisation
    mean_minus_variance = "mean_minus_variance"  # uncertainty-weighted optimisation: mean - penalty * variance
    mean_minus_std = "mean_minus_std"  # the same in the score's own unit


@dataclass
class EnsembleSource(RewardModelTraining):
    """Several reward models combined, each first normalised by the scores of the start model's responses.

    Trained members differ in their seed: in the initial head and in the order of the data. Member i equals the single
    reward model of seed + i, and shares its stored copy.
    """

    name: str = "ensemble"
    members: int = 3  # trained ones, beside those of `paths`
    paths: list[str] = field(default_factory=list)  # stored reward models or sequence classifiers
    combine: Combine = Combine.mean
    penalty: float = 0.5  # weight of the members' variance or deviation (population, not sample)
    path_fields = ("paths",)

    def models(self) -> list[RewardModelSource]:
        shared = {f.name: getattr(self, f.name) for f in fields(RewardModelTraining) if f.name != "name"}
        own = shared | {"normalise": Normalise.reference, "clip": None}
        trained = [RewardModelSource(**own | {"seed": self.seed + i}) for i in range(self.members)]
        return [RewardModelSource(**own, path=path) for path in self.paths] + trained

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        not_negative(self, key, "members", "penalty")
        for i, path in enumerate(self.paths):
            reward_model(f"{key}.paths[{i}]", path)
        if self.members + len(self.paths) < 2:
            raise InputError(f"{key}.members", self.members, "2 or more in all, those of paths included")


@dataclass
class RulesSource(SourceConfig):
    """A weighted sum of rules about the text. A rule counts where its limit or its weight is given."""

    name: str = "rules"
    word_limit: WordLimitRule = field(default_factory=WordLimitRule)
    length_window: LengthWindowRule = field(default_factory=LengthWindowRule)
    regex: RegexRule = field(default_factory=RegexRule)
    format: FormatRule = field(default_factory=FormatRule)
    repetition: RepetitionRule = field(default_factory=RepetitionRule)
    forbidden: ForbiddenRule = field(default_factory=ForbiddenRule)
    exact: ExactRule = field(default_factory=ExactRule)
    numeric: NumericRule = field(default_factory=NumericRule)

    def rules(self) -> dict[str, RuleConfig]:
        """Rules that count, by field."""
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: rule for name, rule in every.items() if isinstance(rule, RuleConfig) and rule.share != 0}

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        if not self.rules():
            allowed = f"a limit or a weight for one, such as {key}.word_limit.limit=50 or {key}.format.weight=1"
            raise InputError(key, "no rule", allowed)
        for name, rule in self.rules().items():
            rule.check(f"{key}.{name}")


class Returns(Enum):
    """What a user's function returns for each response."""

    response = "response"  # a number
    tokens = "tokens"  # a number for each token
    spans = "spans"  # (start, end, score) or (start, end, score, label) in characters, any number of them


@dataclass
class FunctionSource(SourceConfig):
    """The user's own function, or whatever else Python can call; rewards/function.py documents its arguments."""

    name: str = "function"
    path: str = MISSING  # FILE.py:NAME
    returns: Returns = Returns.response
    path_fields = ("path",)

    @property
    def offers(self) -> frozenset[str]:
        return frozenset() if self.returns is Returns.response else frozenset({"token_scores", "prefix_scores"})

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        find_callable(self.path, f"{key}.path")


@dataclass
class CompositeSource(SourceConfig):
    """A weighted sum of sources, each with its own normalisation and clipping.

    Under a credit scheme that needs more than one score per response, a part without more is paid at the last token.
    """

    name: str = "composite"
    parts: dict[str, SourceConfig] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)  # by part; 1 where none is given

    @property
    def offers(self) -> frozenset[str]:
        """Signals of any part, except attention, whose weights belong to one score and not to a sum."""
        return frozenset().union(*(part.offers for part in self.parts.values())) - {"attention"}

    def models(self) -> list[RewardModelSource]:
        return [model for part in self.parts.values() for model in part.models()]

    def every(self, key: str = "reward.source") -> dict[str, SourceConfig]:
        found: dict[str, SourceConfig] = {key: self}
        for name, part in self.parts.items():
            found |= part.every(f"{key}.parts.{name}")
        return found

    def paid(self) -> list[SourceConfig]:
        return [leaf for name, part in self.parts.items() if self.weights.get(name, 1.0) for leaf in part.paid()]

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        if not self.parts:
            raise InputError(f"{key}.parts", {}, f"one source or more: +reward/source@{key}.parts.NAME=rules")
        for name, weight in self.weights.items():
            if name not in self.parts:
                raise InputError(f"{key}.weights.{name}", weight, f"a weight of {', '.join(self.parts)}")
            finite(f"{key}.weights.{name}", weight)
        for name, part in self.parts.items():
            if not name.replace("_", "").replace("-", "").isalnum():
                raise InputError(f"{key}.parts", name, "names of letters, digits, - and _")
            part.check(config, f"{key}.parts.{name}")
