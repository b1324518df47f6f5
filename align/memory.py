"""How much memory a run has taken, and that what it frees stays with it."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

KEPT_UP_TO = 2**25  # bytes: what glibc's own threshold grows to
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's, of malloc.h
_NEVER = -1


@contextmanager
def pages_kept(device: torch.device) -> Iterator[None]:
    """On a CPU, let glibc keep what the main thread frees inside, up to 32 MiB a piece; what is free then goes back.

    By itself it returns the end of its heap several times a pass, and the kernel clears the same pages for the next
    tensors (scripts/bench/results). Larger pieces are mapped one by one, as before: kept as well, they would be broken
    up by small ones. The thresholds stay behind, at the most that glibc's own grow to. For one run at a time. Nothing
    happens under another C library, or where the environment says how to allocate (MALLOC_..., GLIBC_TUNABLES).
    """
    libc = None if device.type != "cpu" or _allocation_is_chosen() else _glibc()
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


def _allocation_is_chosen() -> bool:
    return any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it has glibc's own calls."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None


def peak_memory_mib(device: torch.device) -> float:
    """Peak so far: allocated on the accelerator, else the process's resident size (its unit differs on macOS)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":  # ru_maxrss would begin at the peak of the process that started this one
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
