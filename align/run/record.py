"""run.json: environment, cost and outcome of a run; rewritten as a whole at every change."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import align
from align.errors import InputError, with_cause
from align.files import dumps, read_object, write_atomic
from align.models.hardware import peak_memory_mib
from align.run.folder import ERROR_FILE

FILE = "run.json"
CONFIG = "config.yaml"
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "hydra-core", "numpy", "safetensors")


class RunRecord:
    """Content of run.json."""

    def __init__(self, folder: Path, device: torch.device, *, resumed: bool = False, **facts: Any) -> None:
        """With `resumed`, keep what earlier sittings of the run left in the folder, under `sittings`."""
        self._path = folder / FILE
        self._device = device
        self.earlier = self.read(folder) if resumed else {}
        kept_files = [folder / FILE, folder / CONFIG] if self.earlier else []
        self._before = {path: path.read_bytes() for path in kept_files if path.is_file()}
        if self.earlier:
            kept = ("command", "started", "ended", "status", "seconds", "git")
            sitting = {key: self.earlier.get(key) for key in kept}
            facts["sittings"] = [*self.earlier.get("sittings", []), sitting]
        self._content: dict[str, Any] = {
            "status": "running",
            "command": shlex.join(sys.argv),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"align": align.__version__, "python": platform.python_version()} | versions(),
            "hardware": hardware(device),
            "git": git_state(),
            "seconds": {},
            **facts,
        }
        self.write()
        (folder / ERROR_FILE).unlink(missing_ok=True)  # of an earlier sitting

    @staticmethod
    def read(folder: Path) -> dict[str, Any]:
        """Read the record of an earlier sitting of the run; empty without one. Raises InputError for what is none."""
        path = folder / FILE
        return read_object(path, hardware=dict, identity=dict, sittings=list) if path.is_file() else {}

    def update(self, **facts: Any) -> None:
        """Add facts and write the file."""
        self._content |= facts
        self.write()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase of the run, in seconds."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._content["seconds"][name] = round(time.perf_counter() - started, 3)
            self.write()

    def noted(self, name: str) -> dict[str, Any]:
        """Return a copy of the mapping that stands under `name`; empty where none does."""
        return dict(self._content.get(name, {}))

    def withdraw(self) -> bool:
        """Write the files of the earlier sittings again, where there were some, and return whether."""
        for path, content in self._before.items():
            write_atomic(path, content)
        return bool(self._before)

    def fail(self, status: str, error: BaseException, **facts: Any) -> None:
        """Write the end of a run by an error, and its traceback into error.txt unless the error says all by itself."""
        if not isinstance(error, (KeyboardInterrupt, InputError)) or error.__cause__ is not None:
            write_atomic(self._path.with_name(ERROR_FILE), "".join(traceback.format_exception(error)))
        self.finish(status, error=with_cause(error), **facts)

    def finish(self, status: str, **facts: Any) -> None:
        """Write the end of the run; `status` is finished, failed or interrupted."""
        peak = round(peak_memory_mib(self._device), 1)
        self.update(status=status, peak_memory_mib=peak, ended=datetime.now(UTC).isoformat(timespec="seconds"), **facts)

    def write(self) -> None:
        write_atomic(self._path, dumps(self._content, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide a run's numbers."""
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return {name: importlib.metadata.version(name) for name in _PACKAGES if name in installed}


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe the hardware of the run."""
    facts: dict[str, Any] = {
        "device": str(device),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["accelerator"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def git_state() -> dict[str, Any] | None:
    """Return the commit of the source tree and whether it was changed; None outside a checkout."""
    root = Path(align.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(status.stdout.strip())} if commit.returncode == 0 else None
