"""Held-out prompts that are a trained one with some words edited: MinHash over runs of characters, then their overlap.

The split keeps such prompts where they are: of prompts that one template writes, most are like another. A count says
how much of what is measured was seen almost word for word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from align.data.duplicates import bare
from align.types import Prompt

ALIKE = 0.7  # of the different runs of characters that two prompts have, the share that both have (Jaccard)
_RUN = 5  # characters
_BANDS, _ROWS = 16, 4  # hashes of a band must all agree: 98.8% of pairs with an overlap of 0.7 share one of the bands
_CODES = "utf-32-le"  # a number a character
_DRAWN = np.random.default_rng(0)  # of the hash functions: the same in every run
_FACTORS = _DRAWN.integers(0, 2**32, (_BANDS * _ROWS, 1), dtype=np.uint32) | np.uint32(1)
_SHIFTS = _DRAWN.integers(0, 2**32, (_BANDS * _ROWS, 1), dtype=np.uint32)
_PLACES = _DRAWN.integers(0, 2**64, _RUN, dtype=np.uint64) | np.uint64(1)


class Alike(NamedTuple):
    """A held-out prompt and the first trained one that it is like."""

    held_out: Prompt
    trained: Prompt


def alike(held_out: Sequence[Prompt], trained: Sequence[Prompt]) -> list[Alike]:
    """Find the held-out prompts that share `ALIKE` of their text with a trained one, in their order.

    What users say counts, in the normal form of near-duplicates. In time linear in the prompts; of 1,000 pairs that
    share just `ALIKE`, 12 are missed, and none that shares less is found.
    """
    runs = [_runs(prompt) for prompt in held_out]
    buckets: dict[bytes, list[int]] = defaultdict(list)
    for place, own in enumerate(runs):
        for key in _keys(own):
            buckets[key].append(place)
    found: dict[int, Alike] = {}
    for prompt in trained if held_out else ():
        own = _runs(prompt)
        places = {place for key in _keys(own) for place in buckets.get(key, ())} - found.keys()
        found |= {i: Alike(held_out[i], prompt) for i in places if _overlap(own, runs[i]) >= ALIKE}
    return [found[place] for place in sorted(found)]


def _runs(prompt: Prompt) -> NDArray[np.uint32]:
    """Hash the different runs of characters of what users say in a prompt."""
    said = bare("\n".join(turn["content"] for turn in prompt.messages if turn["role"] == "user"))
    codes = np.frombuffer(said.ljust(_RUN).encode(_CODES), dtype=np.uint32).astype(np.uint64)
    hashed = np.lib.stride_tricks.sliding_window_view(codes, _RUN) @ _PLACES
    return np.unique(((hashed ^ (hashed >> np.uint64(29))) >> np.uint64(16)).astype(np.uint32))


def _keys(runs: NDArray[np.uint32]) -> Iterator[bytes]:
    """Yield a key for each band of the signature of runs (n,): prompts that are alike share some of them."""
    hashes = runs * _FACTORS
    hashes += _SHIFTS
    signature = hashes.min(axis=1)
    for band, own in enumerate(signature.reshape(_BANDS, _ROWS)):
        yield bytes([band]) + own.tobytes()


def _overlap(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> float:
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)
