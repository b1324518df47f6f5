"""Jobs and arms of a report, and the overrides that distinguish them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.report.load import Run, is_run, load_run, run_folders, sweep_records
from align.report.summary import Record, arm_names, arms, common_overrides, figures, members

# Keys that make no other arm: they decide where, how long and under which observation a run runs.
_SAME_ARM = ("seed", "tracking.", "callbacks.", "checkpoint.", "threads", "device", "resume")
# Preferred keys where runs differ in more than are needed to distinguish them.
_TELLING = ("method.name", "reward.source.name", "reward.credit.name", "method.group_size", "model.path", "data.path")


@dataclass(frozen=True)
class Job:
    """A run, or a job of a sweep that left none; `record` is like a line of the sweep's summary."""

    record: Record
    run: Run | None

    @property
    def failed(self) -> bool:
        return bool(self.record["exit_code"])

    @property
    def unfinished(self) -> bool:
        """Return whether the job is still running or was killed: no end is on record."""
        return self.record["exit_code"] is None


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed alone."""

    name: str
    jobs: tuple[Job, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """Return the finished runs; without any, all that left files."""
        done = tuple(job.run for job in self.jobs if job.run is not None and not job.failed)
        return done or tuple(job.run for job in self.jobs if job.run is not None)


def named(arm: Arm, run: Run) -> str:
    """Name a run by its arm and seed."""
    seed = f"seed {run.setting('seed')}"
    return seed if arm.name == "-" else f"{arm.name}, {seed}"


def load_jobs(folders: Sequence[Path]) -> list[Job]:
    """Load the jobs of sweeps and the runs in other folders, in the order given.

    Raises:
        InputError: A folder holds neither a sweep nor a run.
    """
    swept = {folder: sweep_records(folder) for folder in folders if not is_run(folder)}
    paths = dict.fromkeys(p.resolve() for f in folders for p in run_folders(f, none_is_fine=bool(swept.get(f))))
    if len(folders) == 1 and swept.get(folders[0]):
        jobs = [_job_of(record, folders[0]) for record in swept[folders[0]]]
        if len(paths) <= sum(job.run is not None for job in jobs):  # else some of its jobs are not on record (yet)
            return jobs
    runs = [load_run(path) for path in paths]
    words = differences([run.config for run in runs])
    given = {folder.resolve() for folder in folders}
    sweeps = dict.fromkeys([*(f.resolve() for f in swept), *(path.parent for path in paths if path not in given)])
    lost = [record for folder in sweeps for record in _folderless(sweep_records(folder))]
    return [Job(_record(i, run, own), run) for i, (run, own) in enumerate(zip(runs, words, strict=True))] + [
        Job(record, None) for record in lost
    ]


def _folderless(records: Sequence[Record]) -> list[Record]:
    """Return a sweep's jobs that failed before they had a folder, by the overrides that are not common to all jobs."""
    shared = common_overrides(records)
    return [
        {**record, "overrides": [word for word in record["overrides"] if word not in shared]}
        for record in records
        if record["folder"] is None
    ]


def arms_of(jobs: Sequence[Job]) -> tuple[str, list[Arm]]:
    """Group jobs into arms; return a heading, the keys that arms differ in, and the arms."""
    records = [job.record for job in jobs]
    heading, names = arm_names(arms(records))
    groups = [tuple(jobs[i] for i in group) for group in members(records)]
    return heading, [Arm(name, group) for name, group in zip(names, groups, strict=True)]


def _job_of(record: Record, sweep: Path) -> Job:
    there = record["folder"] is not None and is_run(sweep / record["folder"])
    return Job(record, load_run(sweep / record["folder"]) if there else None)


def _record(number: int, run: Run, overrides: list[str]) -> dict[str, Any]:
    status = run.facts.get("status", "unknown")
    failed = status in ("failed", "interrupted")
    return {
        "job": number,
        "overrides": overrides,
        "exit_code": int(failed) if failed or str(status).startswith("finished") else None,
        "error": (run.facts.get("error") or status) if failed else None,
        "folder": str(run.folder),
        **figures(run),
    }


def differences(configs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return, for each configuration, the fewest `key=value` words that distinguish it from the others, seed last."""
    flat = [dict(_flatten(config)) for config in configs]
    keys = sorted({key for one in flat for key in one if not key.startswith(_SAME_ARM)}, key=_rank)
    if not flat:
        return []
    differing = [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]
    chosen: list[str] = []
    for key in differing:
        if _parts(flat, [*chosen, key]) > _parts(flat, chosen):
            chosen.append(key)
    if "seed" in flat[0]:
        chosen.append("seed")
    return [[f"{key}={one[key]}" for key in chosen if key in one] for one in flat]


def _rank(key: str) -> tuple[int, str]:
    return (_TELLING.index(key) if key in _TELLING else len(_TELLING), key)


def _parts(flat: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> int:
    return len({tuple(repr(one.get(key)) for key in keys) for one in flat})


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_differences(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Return every key in which the arms' first runs differ, with its value in each; a dash for a missing key."""
    flat = [dict(_flatten(arm.runs[0].config)) if arm.runs else {} for arm in arms]
    keys = dict.fromkeys(key for one in flat for key in one if not key.startswith(_SAME_ARM))
    rows = [(key, [str(one[key]) if key in one else "-" for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
