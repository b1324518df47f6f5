"""Device and precision of a run, and how much memory it has taken."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from align.config import Config, Device, Precision
from align.errors import InputError


def resolve_device(config: Config) -> torch.device:
    """Return the device of `config.device`, if the machine has it; auto is the first there is of CUDA, MPS and CPU."""
    there = {Device.cuda: torch.cuda.is_available(), Device.mps: torch.backends.mps.is_available(), Device.cpu: True}
    if config.device is Device.auto:
        return torch.device(next(d for d, found in there.items() if found).value)
    if not there[config.device]:
        names = ", ".join(["auto", *(d.value for d, found in there.items() if found)])
        raise InputError("device", config.device.value, f"what this machine has: {names}")
    return torch.device(config.device.value)


def resolve_precision(precision: Precision, device: torch.device) -> tuple[Precision, str]:
    """Return the precision of compute, and the reason.

    auto is bf16 on CUDA cards that compute in it, fp16 on other CUDA cards (T4), fp32 elsewhere.
    """
    if precision is not Precision.auto:
        return precision, "as configured"
    if device.type != "cuda":
        return Precision.fp32, f"auto: fp32 on {device.type}"
    name = torch.cuda.get_device_name(device)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision.bf16, f"auto: {name} computes in bf16"
    return Precision.fp16, f"auto: {name} has no bf16, so fp16 with a gradient scaler"


def precision_hint(config: Config, device: torch.device, *, world: bool) -> list[str]:
    """Return a line that names a faster precision than auto's, where the processor multiplies matrices in it.

    Not auto's own choice: sums over a response of rounded log-probabilities are off by tenths of a nat. Models of the
    embedded world are too small to gain.
    """
    multiplies = device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)
    if config.precision is not Precision.auto or world or not multiplies:
        return []
    return ["precision=bf16 is about twice as fast on this processor, at a coarser rounding"]


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return the tensor type of a resolved precision."""
    return {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}[precision]


def one_process(device: torch.device, dtype: torch.dtype) -> Accelerator:
    """Build the accelerator of the run's one process; InputError where it is one of several."""
    # It places modules and, in fp16, scales gradients; autocast is the roles' own. Accelerate keeps one state per
    # process, which an earlier training in this process may have left.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="fp16" if dtype is torch.float16 else "no")
    if accelerator.num_processes > 1:
        raise InputError("processes", accelerator.num_processes, "1: a run is one process; sweeps run many")
    return accelerator


def peak_memory_mib(device: torch.device) -> float:
    """Peak so far: allocated on the accelerator, else the process's resident size (its unit differs on macOS)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":  # ru_maxrss would begin at the peak of the process that started this one
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def memory_left_mib(device: torch.device) -> float | None:
    """Return what this process can have of the device's memory, what it holds included; None = unknown.

    On Linux that is what the kernel calls available, or what the process's control group is allowed where that is less.
    """
    if device.type == "cuda":
        return (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)) / 2**20
    if sys.platform != "linux":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    free = _kib("/proc/meminfo", "MemAvailable:") + _kib("/proc/self/status", "VmRSS:")
    return min([free / 2**10, *group_limits_mib()])


def _kib(file: str, field: str) -> int:
    return int(Path(file).read_text().split(field)[1].split()[0])


def group_limits_mib(folder: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Yield the memory limits of the process's control group, of its second version and of its first."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        file = folder / name
        if file.is_file() and (given := file.read_text().strip()) != "max":
            yield int(given) / 2**20
