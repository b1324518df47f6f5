"""Memory that a run frees on a CPU, kept for its next tensors."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

KEPT_UP_TO = 2**25  # bytes: what glibc's own threshold grows to
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's, of malloc.h
_NEVER = -1


def why_not(device: torch.device) -> str | None:
    """Why freed memory goes back as the C library decides; None where `pages_kept` keeps it."""
    if device.type != "cpu":
        return f"the run is on {device.type}"
    chosen = next((name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"), None)
    if chosen is not None:
        return f"the environment's {chosen} says how to allocate"
    return None if _glibc() is not None else "not under glibc"


@contextmanager
def pages_kept(device: torch.device) -> Iterator[None]:
    """Let glibc keep what the main thread frees inside, up to 32 MiB a piece; what is free at the end goes back.

    By itself it returns the end of its heap several times a pass, and the kernel clears the same pages for the next
    tensors (scripts/bench/results). Larger pieces are mapped one by one, as before: kept as well, they would be broken
    up by small ones. The thresholds stay behind, at the most that glibc's own grow to. For one run at a time.
    Does nothing where `why_not` gives a reason.
    """
    libc = None if why_not(device) is not None else _glibc()
    if libc is None or libc.mallopt(_MMAP_THRESHOLD, KEPT_UP_TO) != 1:
        yield
        return
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 2 * KEPT_UP_TO)
        gc.collect()  # a run's objects know each other
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it has glibc's own calls."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
