"""Prompts of preference pairs, and plain texts for perplexity."""

from __future__ import annotations

from collections.abc import Iterable

from align.data.sources import load_rows
from align.errors import InputError
from align.types import Pair, Prompt


def prompts_of(pairs: Iterable[Pair]) -> list[Prompt]:
    """Return each prompt once, in order of first appearance."""
    return list({pair.prompt.id: pair.prompt for pair in pairs}.values())


def load_texts(path: str, *, key: str = "evaluation.general_text", column: str = "text") -> list[str]:
    """Load the `column` of a data file; blank texts are left out, as they have no perplexity.

    Raises:
        InputError: Unreadable data, no such column, a cell that is not text (with its row), or no text at all.
    """
    rows = load_rows(path, key=key, text=[column])
    if column not in rows[0]:
        raise InputError(key, path, f"data with a column {column} (it has {', '.join(rows[0])})")
    texts = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row[column], str):
            raise InputError(f"{path}, row {number}, column {column}", row[column], "text")
        if row[column].strip():
            texts.append(row[column])
    if not texts:
        raise InputError(key, path, "data with at least one text")
    return texts
