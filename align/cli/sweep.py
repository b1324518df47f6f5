"""What a sweep leaves beside its jobs' folders: `sweep.jsonl`, one line per finished job, failed ones included.

Hydra calls `SweepSummary` in the process that ran the job, whichever launcher started it, also when the job failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from align.cli.errors import exit_code, one_line
from align.files import LineFile, read_lines

FILE = "sweep.jsonl"


_folder: Path | None = None  # of the sweep that this process started


class SweepSummary(Callback):
    """Records the outcome of every job of a sweep, and removes run folders that a refused configuration left empty."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _folder
        _folder = Path(str(config.hydra.sweep.dir)).absolute()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode is RunMode.MULTIRUN:
            error = job_return._return_value if job_return.status is JobStatus.FAILED else None
            record = {
                "job": config.hydra.job.num,
                "overrides": list(job_return.overrides or ()),
                "exit_code": exit_code(error) if error else 0,
                "error": one_line(error) if error else None,
            }
            summary = LineFile(Path(str(config.hydra.sweep.dir)) / FILE)
            summary.append(record)
            summary.close()
        _remove_if_empty(Path(config.hydra.runtime.output_dir))


def reset() -> None:
    """Forget the sweep of an earlier call in this process."""
    global _folder
    _folder = None


def summary_file() -> Path | None:
    """The summary of the sweep that this process started, if it started one."""
    return _folder / FILE if _folder else None


def outcomes() -> list[dict[str, Any]]:
    """What the jobs of this process's sweep came to, by job number; empty where there was no sweep."""
    path = summary_file()
    return sorted(read_lines(path), key=lambda record: record["job"]) if path else []


def discard() -> None:
    """Remove the folder of a sweep that was refused before any job ran: Hydra has put its own file there already."""
    if _folder is not None and [path.name for path in _folder.glob("*")] == ["multirun.yaml"]:
        (_folder / "multirun.yaml").unlink()
        _remove_if_empty(_folder)


def _remove_if_empty(folder: Path) -> None:
    """Remove `folder`, and those around it below the working directory, where nothing was written into them."""
    for path in (folder, *folder.parents):
        if path != folder and Path.cwd() not in path.parents:
            return
        if not path.is_dir() or any(path.iterdir()):
            return
        path.rmdir()
