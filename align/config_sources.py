"""The reward sources beyond a single reward model and a world's gold reward. Reached through `align.config`.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum

from omegaconf import MISSING

from align.config_checks import classifier_folder, finite, function_in_file, model_folder, not_negative
from align.config_rules import (
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
from align.config_sections import Config, Normalise, RewardModelSource, RewardModelTraining, SourceConfig
from align.errors import InputError


class Combine(Enum):
    """How the scores of an ensemble's members become one (Coste et al., arXiv 2310.02743, and a variant)."""

    mean = "mean"
    minimum = "minimum"  # worst-case optimisation
    mean_minus_variance = "mean_minus_variance"  # uncertainty-weighted optimisation: mean - penalty * variance
    mean_minus_std = "mean_minus_std"  # the same in the score's own unit


@dataclass
class EnsembleSource(RewardModelTraining):
    """Several reward models as one, each put on the scale of the start model's responses first.

    Trained members differ in their seed, and so in the head they start from and the order of their data; member i is
    the single reward model of seed + i, and is stored and found as such.
    """

    name: str = "ensemble"
    members: int = 3  # trained from the run's data, beside those given by path
    paths: list[str] = field(default_factory=list)  # stored reward models or sequence classifiers
    combine: Combine = Combine.mean
    penalty: float = 0.5  # of the members' variance or deviation, over all members (divided by their number)

    def models(self) -> list[RewardModelSource]:
        shared = {f.name: getattr(self, f.name) for f in fields(RewardModelTraining) if f.name != "name"}
        own = shared | {"normalise": Normalise.reference, "clip": None}
        trained = [RewardModelSource(**own | {"seed": self.seed + i}) for i in range(self.members)]
        return [RewardModelSource(**own, path=path) for path in self.paths] + trained

    def path_fields(self) -> list[str]:
        return ["paths"]

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        not_negative(self, key, "members", "penalty")
        for i, path in enumerate(self.paths):
            model_folder(f"{key}.paths[{i}]", path)
            classifier_folder(f"{key}.paths[{i}]", path)
        if self.members + len(self.paths) < 2:
            raise InputError(f"{key}.members", self.members, "2 or more in all, those of paths included")


@dataclass
class RulesSource(SourceConfig):
    """A weighted sum of rules about the text; those with a weight other than 0 count (rewards/text_rules.py)."""

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
        """Those that count."""
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: rule for name, rule in every.items() if isinstance(rule, RuleConfig) and rule.weight != 0}

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        if not self.rules():
            raise InputError(key, "no rule with a weight", f"a weight for one, such as {key}.word_limit.weight=1")
        for name, rule in self.rules().items():
            rule.check(f"{key}.{name}")


class Returns(Enum):
    """What a user's function gives for each response."""

    response = "response"  # a number
    tokens = "tokens"  # a number for each token
    spans = "spans"  # (start, end, score) or (start, end, score, label) in characters, any number of them


@dataclass
class FunctionSource(SourceConfig):
    """The user's own Python function (rewards/function.py says what it is given)."""

    name: str = "function"
    path: str = MISSING  # FILE.py:NAME
    returns: Returns = Returns.response

    @property
    def offers(self) -> frozenset[str]:
        return frozenset() if self.returns is Returns.response else frozenset({"token_scores", "prefix_scores"})

    def path_fields(self) -> list[str]:
        return ["path"]

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        function_in_file(f"{key}.path", self.path)


@dataclass
class CompositeSource(SourceConfig):
    """A weighted sum of sources, each normalised and clipped as it says itself.

    A part that offers nothing finer than one score is paid at the last token where the credit wants more.
    """

    name: str = "composite"
    parts: dict[str, SourceConfig] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)  # by part; 1 where none is given

    @property
    def offers(self) -> frozenset[str]:
        """Not attention: the parts' weights would not be those of one score."""
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
