"""Named random streams: all randomness of a run is a pure function of (seed, names), never of earlier draws.

So a resumed run, another number of processes or a dropped row cannot shift the noise of others.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed for the stream `names` of `seed`."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Make a generator for the stream `names` of `seed`; on the CPU, so that every device draws the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *names))


def permutation(n: int, seed: int, *names: str | int) -> Tensor:
    """Draw a random order of 0..n-1: (n,) int64."""
    return torch.randperm(n, generator=generator(seed, *names))


def in_passes(n: int, start: int, count: int, seed: int, *names: str | int) -> list[int]:
    """Draw `count` of 0..n-1 from place `start` of an endless row of passes, each in a random order of its own."""
    places = range(start, start + count)
    orders = {epoch: permutation(n, seed, *names, epoch).tolist() for epoch in {place // n for place in places}}
    return [orders[place // n][place % n] for place in places]


@contextmanager
def drawn_from(seed: int, *names: str | int) -> Iterator[None]:
    """Seed torch's global generators, for library code that draws from them; their states are restored afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *names))
        yield
