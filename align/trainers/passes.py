"""A role's passes over a rollout, in parts; and those, graphs kept, that the rollout's only update goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from align.functional.masked import zero_outside
from align.models.policy import TokenStats
from align.types import Experience, Rollout

ROW = "held_row"  # column of an experience whose passes are held: which of their rows each is


@dataclass(frozen=True)
class HeldStats:
    """What an update reads of the policy, from a pass before it."""

    logprobs: Tensor  # (B, T) float32, nats, with its graph, 0 outside the mask
    entropy: Tensor  # (B, T) float32, nats


def read(rollout: Rollout, parts: Sequence[Tensor], of: Callable[[Rollout], Tensor]) -> Tensor:
    """(B, T) float32 of what `of` says, (b, t), of the rows that each of `parts` names; 0 outside the mask."""
    out = torch.zeros(rollout.response_ids.shape, device=rollout.response_ids.device)
    for index in parts:
        part = rollout.rows(index)
        found = of(part)
        out[index, : found.shape[1]] = zero_outside(found, part.response_mask)
    return out


def padded_tokens(rollout: Rollout, parts: Sequence[Tensor]) -> int:
    """Of passes over these parts; a shared prompt counts for every row."""
    lengths = rollout.attention_mask.sum(1)
    return sum(len(index) * int(lengths[index].max()) for index in parts)


def is_held(experience: Experience) -> bool:
    """Whether its update goes on from passes before it: of all rows at once, as one backward pass frees the graphs."""
    return ROW in experience.columns


class Holding:
    """The passes that are kept of one rollout. Each is given out once, and nothing but its user has its graph then."""

    def __init__(self) -> None:
        self.seconds = 0.0  # that the passes took: the update's time
        self._stats: HeldStats | None = None
        self._values: Tensor | None = None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        with torch.enable_grad():
            yield
        self.seconds += time.perf_counter() - started

    def keep_policy(self, rollout: Rollout, parts: Sequence[Tensor], of: Callable[[Rollout], TokenStats]) -> Tensor:
        """(B, T) log-probabilities, their graph kept; logits are let go part by part."""
        entropies: list[Tensor] = []

        def logprobs(part: Rollout) -> Tensor:
            stats = of(part)
            entropies.append(stats.entropy)
            return stats.logprobs

        with self._timed():
            found = read(rollout, parts, logprobs)
            given = iter(entropies)
            self._stats = HeldStats(found, read(rollout, parts, lambda _: next(given)))
        return found.detach()

    def keep_values(self, rollout: Rollout, parts: Sequence[Tensor], of: Callable[[Rollout], Tensor]) -> Tensor:
        """(B, T) values, their graph kept."""
        with self._timed():
            self._values = read(rollout, parts, of)
        return self._values.detach()

    def take_policy(self, part: Experience) -> HeldStats | None:
        """Of the rows of an update; None where no pass of the policy is held."""
        stats, self._stats = self._stats, None
        if stats is None or not is_held(part):
            return None
        return HeldStats(_rows(stats.logprobs, part), _rows(stats.entropy, part))

    def take_values(self, part: Experience) -> Tensor | None:
        """(B, T) of the rows of an update; None where no pass of the critic is held."""
        values, self._values = self._values, None
        return None if values is None else _rows(values, part)


def _rows(held: Tensor, part: Experience) -> Tensor:
    return held[part.columns[ROW], : part.rollout.response_ids.shape[1]]
