"""Credit schemes of `reward/credit`: the signals that each needs, and the pure function of functional/credit.py."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from align.config import (
    AttentionCredit,
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
from align.functional import credit as functional
from align.types import RewardOutput

Scheme = (
    SparseCredit
    | UniformCredit
    | PrefixCredit
    | AttentionCredit
    | ImplicitCredit
    | SpansCredit
    | TruthCredit
    | NoCredit
)  # CreditConfig subclasses that have a case in `Credit.assign`


def build_credit(config: CreditConfig) -> Credit:
    """Build the scheme that a configuration names."""
    if not isinstance(config, Scheme):
        raise TypeError(f"no credit scheme for {type(config).__name__}")
    return Credit(config)


@dataclass(frozen=True)
class Credit:
    """A credit scheme."""

    config: Scheme

    @property
    def needs(self) -> frozenset[str]:
        """Return the fields of RewardOutput that must be filled in."""
        return self.config.needs | self.config.adds

    def assign(self, out: RewardOutput, mask: Tensor) -> Tensor:
        """Compute the token rewards (B, T) of `out` under the response mask (B, T); 0 of a response without score."""
        rewards = self._spread(out, mask)
        return rewards if out.applies is None else rewards.where(out.applies.unsqueeze(1), 0.0)

    def _spread(self, out: RewardOutput, mask: Tensor) -> Tensor:
        match self.config:
            case SparseCredit():
                return functional.sparse(out.total, mask)
            case UniformCredit():
                return functional.uniform(out.total, mask)
            case PrefixCredit() as config:
                return functional.prefix(_given(out.prefix_scores), mask, _steps(config, out, mask))
            case AttentionCredit(mix=mix):
                return functional.attention(out.total, _given(out.attention), mask, mix)
            case ImplicitCredit(scale=scale, clip=clip):
                return functional.implicit(out.total, _given(out.log_ratio), mask, scale, clip)
            case NoCredit():
                raise NotImplementedError("no credit scheme: nothing is spread")
            case SpansCredit() | TruthCredit():  # the source, or signals.py, has put segments on their last tokens
                return functional.own(_given(out.token_scores), mask)


def _steps(config: PrefixCredit, out: RewardOutput, mask: Tensor) -> Tensor | None:
    """Return the ends of the steps (B, T), 1 = a step ends; None = with every token."""
    match config.step:
        case PrefixStep.token:
            return None
        case PrefixStep.k:
            return functional.every_k(mask, config.k)
        case PrefixStep.sentence:
            return _given(out.sentence_ends)


def _given(signal: Tensor | None) -> Tensor:
    if signal is None:
        raise TypeError("the source did not fill in a signal that its config offers")
    return signal
