"""The credit schemes of `reward/credit`: which signal each needs, and the pure function it calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from align.config import (
    AttentionCredit,
    CreditConfig,
    ImplicitCredit,
    PrefixCredit,
    PrefixStep,
    SpansCredit,
    SparseCredit,
    TruthCredit,
    UniformCredit,
)
from align.functional import credit as functional
from align.types import RewardOutput


@dataclass(frozen=True)
class Credit:
    """needs: fields of RewardOutput that must be there; assign: (output, mask (B, T)) -> token rewards (B, T)."""

    needs: frozenset[str]
    assign: Callable[[RewardOutput, Tensor], Tensor]


def build_credit(config: CreditConfig) -> Credit:
    """The scheme a configuration names.

    Raises:
        TypeError: A CreditConfig subclass without a scheme: a programming error.
    """
    return Credit(config.needs | config.adds, _scheme(config))


def _scheme(config: CreditConfig) -> Callable[[RewardOutput, Tensor], Tensor]:
    match config:
        case SparseCredit():
            return lambda out, mask: functional.sparse(out.total, mask)
        case UniformCredit():
            return lambda out, mask: functional.uniform(out.total, mask)
        case PrefixCredit():
            return lambda out, mask: functional.prefix(_given(out.prefix_scores), mask, _steps(config, out, mask))
        case AttentionCredit(mix=mix):
            return lambda out, mask: functional.attention(out.total, _given(out.attention), mask, mix)
        case ImplicitCredit(scale=scale, clip=clip):
            return lambda out, mask: functional.implicit(out.total, _given(out.log_ratio), mask, scale, clip)
        case SpansCredit() | TruthCredit():  # the source, or signals.py, has put segments on their last tokens already
            return lambda out, mask: functional.own(_given(out.token_scores), mask)
    raise TypeError(f"no credit scheme for {type(config).__name__}")


def _steps(config: PrefixCredit, out: RewardOutput, mask: Tensor) -> Tensor | None:
    """(B, T), 1 = a step ends; None = with every token."""
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
