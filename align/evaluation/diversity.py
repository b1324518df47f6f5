"""Variety between responses and repetition within them: n-grams of words in lower case, without a model."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence

Gram = tuple[str, ...]
BLEU_ORDER = 4
SMOOTHED = 0.1  # matches of an order without any: method 1 of Chen and Cherry 2014 (W14-3346)


def grams(text: str, n: int) -> list[Gram]:
    """Return the n-grams of a text's words (white space between words, lower case), in order."""
    words = text.lower().split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Compute distinct n-grams / n-grams over all texts (Li et al., arXiv 1510.03055); None without n-grams."""
    every = [gram for text in texts for gram in grams(text, n)]
    return len(set(every)) / len(every) if every else None


def repetition(text: str, n: int = 4) -> float:
    """Compute the share of n-grams that repeat an earlier one (seq-rep-n, arXiv 1908.04319); 0 without any."""
    own = grams(text, n)
    return 1 - len(set(own)) / len(own) if own else 0.0


def self_bleu(texts: Sequence[str]) -> float | None:
    """Compute the mean BLEU-4 of each text against all others (Zhu et al., arXiv 1802.01886): 1 = all the same.

    Orders that a text is too short for are left out of its geometric mean ("effective order"), orders without a match
    count SMOOTHED matches, and the brevity penalty takes the reference nearest in length. Texts without words are left
    out. None for fewer than two texts.
    """
    counted = [[Counter(grams(text, n)) for n in range(1, BLEU_ORDER + 1)] for text in texts if text.split()]
    if len(counted) < 2:
        return None
    most = [_two_largest([row[n] for row in counted]) for n in range(BLEU_ORDER)]
    lengths = [row[0].total() for row in counted]
    return statistics.fmean(_bleu(row, most, lengths, i) for i, row in enumerate(counted))


def _two_largest(counters: Sequence[Counter[Gram]]) -> dict[Gram, tuple[int, int]]:
    """Return each n-gram's two largest counts in a text; the second serves the text that has the first."""
    found: dict[Gram, tuple[int, int]] = {}
    for counter in counters:
        for gram, count in counter.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (count, first) if count > first else (first, max(second, count))
    return found


def _bleu(
    own: Sequence[Counter[Gram]], most: Sequence[dict[Gram, tuple[int, int]]], lengths: Sequence[int], i: int
) -> float:
    logs = []
    for counter, largest in zip(own, most, strict=True):
        total = counter.total()
        if not total:
            break
        matches = sum(min(n, _elsewhere(largest[gram], n)) for gram, n in counter.items())
        logs.append(math.log((matches or SMOOTHED) / total))
    others = [n for j, n in enumerate(lengths) if j != i]
    nearest = min(others, key=lambda n: (abs(n - lengths[i]), n))
    penalty = min(0.0, 1 - nearest / lengths[i])
    return math.exp(penalty + statistics.fmean(logs))


def _elsewhere(largest: tuple[int, int], own: int) -> int:
    """Return the largest count of an n-gram in another text."""
    return largest[1] if own == largest[0] else largest[0]
