"""Credit schemes: how a score is spread over the response's tokens. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from align.config.base import MISSING, Section
from align.config.checks import existing, fraction, model_folder, not_negative, positive
from align.config.sources import GoldSource
from align.errors import InputError

if TYPE_CHECKING:
    from align.config.schema import Config


@dataclass
class CreditConfig(Section):
    """Base of credit schemes (they are in config_credits.py). `needs` names the signals that the source must offer,
    `adds` those that the run adds to any source's (rewards/signals.py)."""

    name: str = MISSING

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def adds(self) -> frozenset[str]:
        return frozenset()

    def path_fields(self) -> list[str]:
        """Names of the fields that hold a path."""
        return []

    def check(self, config: Config, key: str) -> None:
        """Raise InputError on values that cannot run; `key` is the scheme's own in the whole composition."""


class PrefixStep(Enum):
    """After how much of a response its prefix is scored again."""

    token = "token"
    k = "k"  # every k tokens
    sentence = "sentence"  # at a full stop, question or exclamation mark, or at the end of a line


@dataclass
class SparseCredit(CreditConfig):
    name: str = "sparse"


@dataclass
class UniformCredit(CreditConfig):
    """R / T at every token. Moves the KL-regularised optimum (functional/credit.py)."""

    name: str = "uniform"


@dataclass
class PrefixCredit(CreditConfig):
    name: str = "prefix"
    step: PrefixStep = PrefixStep.token
    k: int = 8  # tokens of a step, with step=k

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"prefix_scores"})

    @property
    def adds(self) -> frozenset[str]:
        return frozenset({"sentence_ends"} if self.step is PrefixStep.sentence else ())

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        positive(self, key, "k")


@dataclass
class AttentionCredit(CreditConfig):
    """ABC. Moves the KL-regularised optimum (functional/credit.py)."""

    name: str = "attention"
    mix: float = 0.8  # b of ABC: share of the score that attention spreads; the rest is paid at the last token

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"attention"})

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        fraction(self, key, "mix")


@dataclass
class SpansCredit(CreditConfig):
    """Fine-grained RLHF: labelled segments, each paid at its last token. Of a sum, those of its parts; a part without
    any is paid at the last token."""

    name: str = "spans"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"token_scores"})


@dataclass
class TruthCredit(CreditConfig):
    """The world's own credit, with reward/source=gold: an upper bound. In a sum gold's part has it, and the others are
    paid as `spans` pays them. (Hydra takes `true` for a bool.)"""

    name: str = "truth"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"token_scores"})

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        if not any(isinstance(source, GoldSource) for source in config.reward.source.paid()):
            allowed = "another one, or reward/source=gold (itself or a weighted part of a sum): only the world knows it"
            raise InputError("reward/credit", "truth", allowed)


@dataclass
class ImplicitCredit(CreditConfig):
    """RTO: the log-ratio of a DPO policy as a reward per token. Moves the optimum (functional/credit.py)."""

    name: str = "implicit"
    scale: float = 0.05  # b1 of RTO: reward per nat of log pi_dpo - log pi_ref
    clip: float = 0.05  # bound of a token's reward, either way
    path: str | None = None  # a finished DPO run on the same start model; null = trained from the run's data, once
    learning_rate: float = 3.0e-4  # of that training, as all below
    epochs: int = 1
    batch_size: int = 32  # pairs
    beta: float = 0.1
    seed: int = 0  # apart from the run's seed so that sweeps share it

    @property
    def adds(self) -> frozenset[str]:
        return frozenset({"log_ratio"})

    def path_fields(self) -> list[str]:
        return ["path"]

    def check(self, config: Config, key: str) -> None:
        super().check(config, key)
        model_folder(f"{key}.path", self.path)
        if self.path is not None and existing(f"{key}.path", self.path) is None:
            raise InputError(f"{key}.path", self.path, "a folder on this machine: a finished DPO run, or its model")
        positive(self, key, "scale", "clip", "learning_rate", "epochs", "batch_size", "beta")
        not_negative(self, key, "seed")
