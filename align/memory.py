"""How much memory a run has taken."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch


def peak_memory_mib(device: torch.device) -> float:
    """Peak so far: allocated on the accelerator, else the process's resident size (its unit differs on macOS)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":  # ru_maxrss would begin at the peak of the process that started this one
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
