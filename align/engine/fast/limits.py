"""The sizes from which fast paths pay, measured by scripts/bench."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Change speed and memory, never a result beyond rounding."""

    shared_from: int = 48  # tokens of a prompt that training reads once for its rows
    # Two passes take a GPU longer than reading prompts again (scripts/bench/graphs.py); long ones would fill memory.
    shared_from_on_gpu: int = 256
    shared_saves: float = 0.2  # of the tokens that all rows have together, at least
    held_once_from: int = 256  # tokens of a prompt that decoding holds once; two parts cost short ones more products
    room: int = 64  # tokens that a cache keeps room for
    look_every: int = 8  # captured steps between two looks at which rows have ended: a look waits for the GPU
    capture_bytes: int = 2**37  # of keys and values that an H100 reads in the time a capture takes, 40 ms
