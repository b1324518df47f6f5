"""Comparisons of responses with the start model's, without a model: win rate, lengths, word limits."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from align.evaluation.intervals import bootstrap
from align.numbers import cell_number


def win_rate(won: Sequence[float | None], *, confidence: float, seed: int) -> dict[str, float | None]:
    """Compute the share of prompts that are won, ties counted half, with a bootstrap interval over prompts.

    None among the `outcomes` is left out.
    """
    wins = [outcome for outcome in won if outcome is not None]
    if not wins:
        return {"mean": None, "low": None, "high": None}
    low, high = bootstrap(wins, confidence=confidence, seed=seed)
    return {"mean": statistics.fmean(wins), "low": low, "high": high}


def outcomes(scores: Sequence[float], baseline: Sequence[float], same: Sequence[bool]) -> list[float | None]:
    """Compare scores with the start model's, prompt by prompt: 1 = won, 0 = lost, 0.5 = tie, None where either is NaN.

    Two responses that are the `same` are a tie, even where their scores differ: in their last digits with the rest of
    the batch, and in a reward model with which of several end tokens is read.

    Raises:
        ValueError: The arguments differ in length.
    """
    return [
        None if math.isnan(a) or math.isnan(b) else 0.5 if alike or a == b else float(a > b)
        for a, b, alike in zip(scores, baseline, same, strict=True)
    ]


def words(text: str) -> int:
    """Count the words between white space."""
    return len(text.split())


def verbosity(
    responses: Sequence[str], tokens: Sequence[int], rows: Sequence[Mapping[str, Any]], word_limit: int
) -> dict[str, float]:
    """Compute the mean, median and deviation of lengths, and the share of responses within their word limit.

    `tokens` count the end token; a `word_limit` in a prompt's data row takes precedence over `word_limit`.
    """
    counts = [words(text) for text in responses]
    own = [cell_number(row.get("word_limit")) for row in rows]
    limits = [word_limit if limit is None else limit for limit in own]
    return {
        "mean_tokens": statistics.fmean(tokens),
        "median_tokens": float(statistics.median(tokens)),
        "std_tokens": statistics.pstdev(tokens),
        "mean_words": statistics.fmean(counts),
        "compliance_rate": statistics.fmean(n <= limit for n, limit in zip(counts, limits, strict=True)),
    }


def mean_by(values: Sequence[float], rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, float]:
    """Compute the mean of `values` for each value of a column; rows without the column are left out."""
    groups: dict[str, list[float]] = {}
    for value, row in zip(values, rows, strict=True):
        if row.get(column) is not None:
            groups.setdefault(str(row[column]), []).append(value)
    return {name: statistics.fmean(group) for name, group in sorted(groups.items())}
