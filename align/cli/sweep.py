"""Write a sweep's summary beside its jobs' folders: `summary.jsonl` (a line per job, failed jobs too), `summary.md`
and `report.html`.

Hydra calls `SweepSummary` in the process that ran the job, under any launcher, also after a failure. `finish`, in the
process that started the sweep, makes table and report. Imports no torch.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from align.cli.errors import exit_code, one_line
from align.config import Config
from align.errors import InputError
from align.files import LineFile, dumps, read_lines, write_atomic
from align.run.folder import claim

FILE = "summary.jsonl"
TABLE = "summary.md"

_folder: Path | None = None  # of the sweep that this process started
_earlier = 0  # lines of an earlier sweep in the same folder's summary


class Refused(BaseException):
    """A sweep that does not start. Hydra swallows a callback's Exceptions, and starts it all the same."""

    def __init__(self, error: InputError) -> None:
        super().__init__(error)
        self.error = error


class SweepSummary(Callback):
    """Hydra callback that records every job's outcome, and removes folders that a refused configuration left empty."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _folder, _earlier
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        try:
            moved = claim(folder, overwrite=_overwrites(config), key="hydra.sweep.dir", sweep=True)
        except InputError as error:
            raise Refused(error) from error
        if moved is not None:
            print(moved, file=sys.stderr)
        _folder, _earlier = folder, len(list(read_lines(folder / FILE)))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.runtime.output_dir))
        if config.hydra.mode is RunMode.MULTIRUN:
            summary = LineFile(Path(str(config.hydra.sweep.dir)) / FILE)
            summary.append(self._record(config, job_return, folder))
            summary.close()
        _remove_if_empty(folder)

    def _record(self, config: DictConfig, job_return: JobReturn, folder: Path) -> dict[str, Any]:
        from align.report.summary import figures_of

        error = job_return._return_value if job_return.status is JobStatus.FAILED else None
        return {
            "job": config.hydra.job.num,
            "overrides": list(job_return.overrides or ()),
            "exit_code": exit_code(error) if error else 0,
            "error": one_line(error) if error else None,
            "folder": str(config.hydra.sweep.subdir) if folder.is_dir() and any(folder.iterdir()) else None,
            "seconds": round(time.perf_counter() - self._started, 3),
            **figures_of(folder),
        }


def _overwrites(config: DictConfig) -> bool:
    """Return whether a sweep's words say overwrite=true, which its configuration as a whole does not hold."""
    given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    said = [override.value() for override in given if override.key_or_group == "overwrite"]
    return bool(said) and said[-1] is True


def grouped(config: Config, folder: Path) -> Config:
    """Set a tracked job's group to the name of the sweep's folder, unless the user gave a group."""
    if config.tracking.group is not None or config.tracking.name == "none":
        return config
    return replace(config, tracking=replace(config.tracking, group=folder.name))


def reset() -> None:
    """Clear the state of an earlier call in this process."""
    global _folder, _earlier
    _folder, _earlier = None, 0


def summary_file() -> Path | None:
    """Return the path of the summary of this process's sweep; None where no sweep was started."""
    return _folder / FILE if _folder else None


def finish() -> list[dict[str, Any]]:
    """End this process's sweep: write and print its table; return its jobs' records by number, none without a sweep."""
    global _earlier
    if _folder is None:
        return []
    jobs = sorted(list(read_lines(_folder / FILE))[_earlier:], key=lambda record: record["job"])
    if jobs:
        from align.cli.table import print_table
        from align.report.tables import markdown

        write_atomic(_folder / FILE, "".join(dumps(record) + "\n" for record in jobs))
        _earlier = 0  # only this sweep's lines are left
        write_atomic(_folder / TABLE, markdown(jobs))
        shown = print_table(jobs)
        _report(_folder, announce=shown)
    return jobs


def _report(folder: Path, *, announce: bool) -> None:
    """Write the HTML report; on failure print why, since the sweep still has its table."""
    from align.report import write_report

    try:
        path = write_report(folder)
        if announce:
            print(f"report: {path}")
    except Exception as error:
        print(f"no report of {folder}: {one_line(error)}", file=sys.stderr)


def discard() -> None:
    """Remove the folder of a sweep that was refused before any job ran, which holds Hydra's own file alone."""
    if _folder is not None and [path.name for path in _folder.glob("*")] == ["multirun.yaml"]:
        (_folder / "multirun.yaml").unlink()
        _remove_if_empty(_folder)


def _remove_if_empty(folder: Path) -> None:
    """Remove `folder`, and its parents below the working directory, as far as they are empty."""
    for path in (folder, *folder.parents):
        if path != folder and Path.cwd() not in path.parents:
            return
        if not path.is_dir() or any(path.iterdir()):
            return
        path.rmdir()
