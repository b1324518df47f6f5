"""The credit schemes of `reward/credit`: which signal each needs, and the pure function it calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from align.config import AttentionCredit, CreditConfig, PrefixCredit, SparseCredit, UniformCredit
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
    match config:
        case SparseCredit():
            return Credit(config.needs, lambda out, mask: functional.sparse(out.total, mask))
        case UniformCredit():
            return Credit(config.needs, lambda out, mask: functional.uniform(out.total, mask))
        case PrefixCredit():
            return Credit(config.needs, lambda out, mask: functional.prefix(_given(out.prefix_scores), mask))
        case AttentionCredit(mix=mix):
            return Credit(
                config.needs, lambda out, mask: functional.attention(out.total, _given(out.attention), mask, mix)
            )
    raise TypeError(f"no credit scheme for {type(config).__name__}")


def _given(signal: Tensor | None) -> Tensor:
    if signal is None:
        raise TypeError("the source did not fill in a signal that its config offers")
    return signal
