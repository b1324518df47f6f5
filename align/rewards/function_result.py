"""Reading of what a user's function returns, of the kind `reward.source.returns`; one line on anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from align.errors import RunError
from align.types import RewardInput

Span = tuple[int, int, float, str]  # start and end character, score, label (empty where there is none)


class Returned:
    """Reader of a function's entries for the responses of `batch`; an error is one line, nothing is repaired.

    Arrays and tensors count as lists, and their numbers as numbers.
    """

    def __init__(self, function: str, batch: RewardInput) -> None:
        self._function, self._batch = function, batch

    def sample(self, i: int) -> str:
        return f"sample {i} (prompt {int(self._batch.rollout.prompt_index[i])})"

    def entries(self, value: Any, rows: Sequence[int]) -> list[Any]:
        """Return the value as a list with one entry for each of these rows."""
        value = self._list(value, f"a list with an entry for each of {len(rows)} responses", rows[0])
        if len(value) != len(rows):
            first = rows[min(len(value), len(rows) - 1)]
            raise self._wrong(f"{len(value)} entries", f"{len(rows)}, one for each response", first)
        return value

    def number(self, value: Any, i: int, of: str = "", *, optional: bool = False) -> float:
        """Return a finite number of response i; NaN for a None that is `optional`."""
        value = _plain(value)
        if value is None and optional:
            return math.nan
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._bad(value, f"a finite number{of}{' or None' if optional else ''}", i)
        return float(value)

    def tokens(self, value: Any, i: int) -> list[float]:
        """Return one number for each token of response i."""
        n = int(self._batch.rollout.lengths[i])
        value = self._list(value, f"a list of {n} numbers, one for each token", i)
        if len(value) != n:
            raise self._wrong(f"{len(value)} numbers", f"{n}, one for each token", i)
        return [self.number(x, i, f" for token {t}") for t, x in enumerate(value)]

    def spans(self, value: Any, i: int) -> list[Span]:
        """Return the labelled spans of response i."""
        return [self._span(span, i) for span in self._list(value, "a list of spans", i)]

    def _span(self, span: Any, i: int) -> Span:
        if not isinstance(span, (list, tuple)) or len(span) not in (3, 4):
            raise self._bad(span, "(start, end, score) or (start, end, score, label)", i)
        start, end = _plain(span[0]), _plain(span[1])
        size = len(self._batch.responses[i])
        whole = all(isinstance(x, int) and not isinstance(x, bool) for x in (start, end))
        if not whole or not 0 <= start <= end <= size:
            raise self._bad((start, end), f"characters of the response, 0 <= start <= end <= {size}", i)
        label = span[3] if len(span) == 4 else ""
        if not isinstance(label, str):
            raise self._bad(label, "a label that is text", i)
        return start, end, self.number(span[2], i, " for a span"), label

    def _list(self, value: Any, allowed: str, i: int) -> list[Any]:
        value = _plain(value)
        if not isinstance(value, (list, tuple)):
            raise self._bad(value, allowed, i)
        return list(value)

    def _bad(self, given: Any, allowed: str, i: int) -> RunError:
        shown = repr(given)
        shown = shown if len(shown) <= 60 else shown[:60] + "..."
        return self._wrong(f"{shown}, a string" if isinstance(given, str) else shown, allowed, i)

    def _wrong(self, returned: str, allowed: str, i: int) -> RunError:
        return RunError(f"{self._function}: returned {returned} at {self.sample(i)}; allowed: {allowed}")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
