"""A role's passes over a rollout, in parts; and those, graphs kept, that the rollout's only update goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from align.engine.policy import TokenStats
from align.functional.masked import zero_outside
from align.types import Rollout


@dataclass(frozen=True)
class HeldStats:
    """What an update reads of the policy, from a pass before it."""

    logprobs: Tensor  # (B, T) float32, nats, with its graph, 0 outside the mask
    entropy: Tensor  # (B, T) float32, nats


def read(rollout: Rollout, parts: Sequence[Tensor], of: Callable[[Rollout], Tensor]) -> Tensor:
    """(B, T) float32 of what `of` says, (b, t), of the rows that each of `parts` names; 0 outside the mask."""
    out = _blank(rollout)
    for index in parts:
        part = rollout.rows(index)
        _put(out, index, of(part), part)
    return out


def _blank(rollout: Rollout) -> Tensor:
    return torch.zeros(rollout.response_ids.shape, device=rollout.response_ids.device)


def _put(out: Tensor, index: Tensor, found: Tensor, part: Rollout) -> None:
    out[index, : found.shape[1]] = zero_outside(found, part.response_mask)


def padded_tokens(rollout: Rollout, parts: Sequence[Tensor]) -> int:
    """Rows times longest row of each part, summed; a shared prompt counts for every row."""
    lengths = rollout.attention_mask.sum(1)
    return sum(len(index) * int(lengths[index].max()) for index in parts)


class Holding:
    """The passes that are kept of one rollout. Each is given out once, and nothing but its user has its graph then.

    One backward pass frees a graph, and so the update is of all rows at once, in the rollout's order.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # that the passes took: the update's time
        self._stats: HeldStats | None = None
        self._values: Tensor | None = None

    @property
    def full(self) -> bool:
        """Whether an update can go on from what is held: from the policy's pass at least."""
        return self._stats is not None

    @contextmanager
    def _kept(self, rollout: Rollout) -> Iterator[None]:
        started = time.perf_counter()
        # Weights that autocast rounds are let go where its outermost block ends: inside this one, which does nothing
        # else, a graph keeps them once, and not once for every part.
        with torch.enable_grad(), torch.autocast(rollout.response_ids.device.type, enabled=False):
            yield
        self.seconds += time.perf_counter() - started

    def keep_policy(self, rollout: Rollout, parts: Sequence[Tensor], of: Callable[[Rollout], TokenStats]) -> Tensor:
        """(B, T) log-probabilities, their graph kept."""
        logprobs, entropy = _blank(rollout), _blank(rollout)
        with self._kept(rollout):
            for index in parts:
                part = rollout.rows(index)
                stats = of(part)
                _put(logprobs, index, stats.logprobs, part)
                _put(entropy, index, stats.entropy, part)
        self._stats = HeldStats(logprobs, entropy)
        return logprobs.detach()

    def keep_values(self, rollout: Rollout, parts: Sequence[Tensor], of: Callable[[Rollout], Tensor]) -> Tensor:
        """(B, T) values, their graph kept."""
        with self._kept(rollout):
            self._values = read(rollout, parts, of)
        return self._values.detach()

    def take_policy(self) -> HeldStats | None:
        """None where no pass of the policy is held."""
        stats, self._stats = self._stats, None
        return stats

    def take_values(self) -> Tensor | None:
        """(B, T); None where no pass of the critic is held."""
        values, self._values = self._values, None
        return values
