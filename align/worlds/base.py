"""The interface of a world: a gold reward that is the exact sum of the credits of the response's segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Segment:
    """A stretch of a response and what it earned.

    `start == end == len(response)` stands for the end of the response (its end token, or the lack of one).
    """

    start: int  # characters of the response, [start, end)
    end: int
    credit: float
    label: str  # "good", or the flaw


@dataclass(frozen=True)
class Gold:
    """True reward of one response; `total` equals the sum of the segments' credits without rounding."""

    total: float  # in [-1, 1]
    segments: tuple[Segment, ...]  # in order, without overlap


class World(Protocol):
    """A task set with a known reward."""

    name: str

    def gold(self, row: Mapping[str, Any], response: str, ended: bool) -> Gold:
        """Compute the reward of `response` (text without special tokens) to the data row's prompt.

        Args:
            row: A row of the world's data files.
            response: The decoded response.
            ended: Whether the response stopped by itself (False: cut at the length limit).

        Raises:
            InputError: The row lacks a column that the world needs.
        """
        ...
