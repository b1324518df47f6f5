"""Compose the configuration of a command line through Hydra, run it or its sweep, and end with one line on failure.

Tracebacks only with ALIGN_TRACEBACK=1 or HYDRA_FULL_ERROR=1.
"""

import os
import sys
import traceback
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from hydra.types import RunMode
from omegaconf import DictConfig

from align.cli import sweep
from align.cli.errors import added_key, exit_code, explain, one_line
from align.cli.groups import CONF
from align.cli.resume import changes, resumed_config
from align.cli.words import flags_first
from align.config.io import build, register_schemas
from align.config.needs import check_named_shape
from align.errors import InputError
from align.run.folder import ERROR_FILE, claim


def job(cfg: DictConfig) -> dict[str, Any]:
    """Run one composition; raise InputError before torch is imported where the configuration is refused."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode is RunMode.MULTIRUN
    if cfg.resume is None:
        config = build(cfg)
    elif sweeping:
        raise InputError("resume", cfg.resume, "one run at a time, without --multirun")
    elif folder.resolve() != Path(cfg.resume).resolve():
        raise InputError("hydra.run.dir", str(folder), f"nothing else beside resume={cfg.resume}")
    else:
        config = resumed_config(folder, changes(cfg, hydra_config.overrides.task))
    check_named_shape(config)
    if cfg.resume is None:
        moved = claim(folder, overwrite=config.overwrite)
        if moved is not None:
            print(moved, file=sys.stderr)
    if sweeping:
        config = sweep.grouped(config, Path(str(hydra_config.sweep.dir)))
        print(f"job {hydra_config.job.num}: {' '.join(hydra_config.overrides.task)}", flush=True)

    from align.run.runner import run  # torch and everything behind it

    return run(config, folder)


class _Launch:
    """The function that Hydra calls for each job. Keeps the exception of a single job, which Hydra would print."""

    def __init__(self) -> None:
        self.folder: Path | None = None  # of the job that started last
        self.failure: Exception | None = None

    def __call__(self, cfg: DictConfig) -> dict[str, Any] | None:
        self.folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            return job(cfg)
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # launchers and sweepers handle it
            self.failure = error
            return None


class _Filter:
    """Standard error without the line that Hydra prints before a job's exception."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Error executing job with overrides:") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def launch(words: list[str]) -> int:
    """Run the command line `words`; return the exit code."""
    trace = "1" in (os.environ.get("ALIGN_TRACEBACK"), os.environ.get("HYDRA_FULL_ERROR"))
    launched = _Launch()
    sweep.reset()
    with redirect_stderr(_Filter(sys.stderr)), env_override({"HYDRA_FULL_ERROR": "1"}):  # Hydra raises, never exits
        try:
            sys.argv[1:] = flags_first(words)
            register_schemas()
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(launched)()
        except KeyboardInterrupt:
            sweep.finish()  # with the jobs that had ended
            resumable = launched.folder is not None and any(launched.folder.glob("*_step_*"))
            print(f"interrupted{f', go on with: align resume={launched.folder}' if resumable else ''}", file=sys.stderr)
            return 130
        except sweep.Refused as refused:
            launched.failure = refused.error
        except Exception as error:
            launched.failure = error
    return _report_end(launched, words, trace)


def _report_end(launched: _Launch, words: list[str], trace: bool) -> int:
    """Print the failure, if there is one; return the exit code."""
    if trace and launched.failure is not None:
        traceback.print_exception(launched.failure)
    jobs = sweep.finish()
    if any(record["exit_code"] for record in jobs):
        return _report_sweep(jobs)
    if launched.failure is None:
        return 0
    refused = launched.folder is None and not jobs  # nothing ran: the composition itself was not accepted
    if refused:
        sweep.discard()
    error = explain(launched.failure, words) if refused else launched.failure
    if isinstance(error, InputError):
        error = added_key(error, words)
    code = exit_code(error)
    kept = None if launched.folder is None or code == 2 else launched.folder / ERROR_FILE
    if kept is not None and kept.is_file():
        print(f"traceback: {kept}", file=sys.stderr)
    print(f"{'error' if code == 2 else 'run failed'}: {one_line(error)}", file=sys.stderr)
    return code


def _report_sweep(jobs: list[dict[str, Any]]) -> int:
    """Print the failed jobs of a sweep; return 2 where every failure was bad input, else 1."""
    failed = [record for record in jobs if record["exit_code"]]
    for record in failed:
        print(f"job {record['job']} failed ({' '.join(record['overrides'])}): {record['error']}", file=sys.stderr)
    print(f"{len(failed)} of {len(jobs)} jobs failed, see {sweep.summary_file()}", file=sys.stderr)
    return min(record["exit_code"] for record in failed)
