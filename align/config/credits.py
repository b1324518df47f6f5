"""Define the options of the credit schemes, which spread a response's score over its tokens. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from align.config.base import MISSING, Section
from align.config.checks import automatic, existing, fraction, model_folder, not_negative, positive
from align.config.sources import GoldSource
from align.config.values import AUTO, Rate
from align.errors import InputError

if TYPE_CHECKING:
    from align.config.schema import Config


@dataclass
class CreditConfig(Section):
    """Base of the credit schemes.

    A signal is what a scheme reads beside the score, such as a score per token. `needs` names the signals that the
    reward source must offer, `adds` those that the run computes itself, whatever the source.
    """

    name: str = MISSING
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def adds(self) -> frozenset[str]:
        return frozenset()

    def check(self, config: Config, key: str) -> None:
        """Raise InputError on values that cannot run; `key` is the scheme's own in the whole composition."""


class PrefixStep(Enum):
    """After how much of a response its prefix is scored again."""

    token = "token"
    k = "k"  # every k tokens
    sentence = "sentence"  # at a full stop, question or exclamation mark, or at the end of a line


@dataclass
class NoCredit(CreditConfig):
    """Spread nothing, with reward/source=none."""

    name: str = "none"

    def check(self, config: Config, key: str) -> None:
        if config.method.needs_reward:
            allowed = f"another scheme, such as sparse: method={config.method.name} learns from token rewards"
            raise InputError("reward/credit", "none", allowed)


@dataclass
class AutoCredit(CreditConfig):
    """The source's own token scores where it has some, else SparseCredit; settled before a run starts."""

    name: str = "auto"


@dataclass
class SparseCredit(CreditConfig):
    """Pay the whole score at the last token."""

    name: str = "sparse"


@dataclass
class UniformCredit(CreditConfig):
    """Pay R / T at each of the T tokens of a response with score R. Moves the KL-regularised optimum."""

    name: str = "uniform"


@dataclass
class PrefixCredit(CreditConfig):
    """Pay the differences of the scores of successive prefixes. Keeps the KL-regularised optimum."""

    name: str = "prefix"
    step: PrefixStep = PrefixStep.token
    k: int = 8  # tokens of a step, with step=k
    needs = frozenset({"prefix_scores"})

    @property
    def adds(self) -> frozenset[str]:
        return frozenset({"sentence_ends"} if self.step is PrefixStep.sentence else ())

    def check(self, config: Config, key: str) -> None:
        positive(self, key, "k")


@dataclass
class AttentionCredit(CreditConfig):
    """Spread the score by the reward model's attention from the last token: ABC (arXiv 2402.00782).

    Moves the KL-regularised optimum.
    """

    name: str = "attention"
    mix: float = 0.8  # b of ABC: share of the score that attention spreads; the rest is paid at the last token
    needs = frozenset({"attention"})

    def check(self, config: Config, key: str) -> None:
        fraction(self, key, "mix")


@dataclass
class SpansCredit(CreditConfig):
    """Pay labelled segments, each at its last token: fine-grained RLHF (arXiv 2306.01693).

    A composite source's segments are those of its parts; a part without segments is paid at the last token.
    """

    name: str = "spans"
    needs = frozenset({"token_scores"})


@dataclass
class TruthCredit(CreditConfig):
    """Pay where the embedded world's gold reward arises, an upper bound for other schemes; needs reward/source=gold.

    In a composite source the gold part is paid so, and the others as SpansCredit pays them. Named `truth` because
    Hydra parses `true` as a bool.
    """

    name: str = "truth"
    needs = frozenset({"token_scores"})

    def check(self, config: Config, key: str) -> None:
        if not any(isinstance(source, GoldSource) for source in config.reward.source.paid()):
            allowed = "another one, or reward/source=gold (itself or a weighted part of a sum): only the world knows it"
            raise InputError("reward/credit", "truth", allowed)


@dataclass
class ImplicitCredit(CreditConfig):
    """Pay each token the log-ratio of a DPO policy to the reference, beside the score: RTO (arXiv 2404.18922).

    Moves the KL-regularised optimum.
    """

    name: str = "implicit"
    scale: float = 0.05  # b1 of RTO: reward per nat of log pi_dpo - log pi_ref
    clip: float = 0.05  # bound of a token's reward, either way
    path: str | None = None  # a finished DPO run on the same start model; null = trained from the run's data, once
    learning_rate: Rate = AUTO  # of the DPO training, as are the keys below
    epochs: int = 1  # passes over the training pairs
    batch_size: int = 32  # pairs per optimizer update
    beta: float = 0.1
    seed: int = 0  # not the run's seed, so that a sweep over seeds shares one trained policy
    adds = frozenset({"log_ratio"})
    path_fields = ("path",)

    def check(self, config: Config, key: str) -> None:
        model_folder(f"{key}.path", self.path)
        if self.path is not None and existing(f"{key}.path", self.path) is None:
            raise InputError(f"{key}.path", self.path, "a folder on this machine: a finished DPO run, or its model")
        automatic(self, key, "learning_rate")
        positive(self, key, "scale", "clip", "epochs", "batch_size", "beta")
        not_negative(self, key, "seed")
