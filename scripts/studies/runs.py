"""The studies' runs: sweeps of `align -m` that are picked up where they were left, and what is read back from them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from align.files import write_atomic
from align.report.load import load_run

OVERRIDES = "cell.json"
OBSERVES = ("evaluation.every_steps=", "checkpoint.every_steps=")  # change no figure of a run, only how many there are


@dataclass(frozen=True)
class Cell:
    """One setting over seeds: a sweep, in a folder of its own under the study's."""

    stage: str  # tune or report
    arm: str
    setting: str  # of the tuned keys, "" where there are none
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    group: str = ""  # what is compared apart from others: short or long responses

    @property
    def made_by(self) -> str:
        """Stands in a point for the overrides that its figures depend on."""
        return hashlib.sha256("\n".join(shaping(self.overrides)).encode()).hexdigest()[:12]

    def folder(self, study: Path) -> Path:
        names = (self.stage, self.group, self.arm, self.setting.replace("=", "_"))
        return study / "-".join(name for name in names if name)

    def run(self, study: Path, seed: int) -> Path:
        return self.folder(study) / f"seed_{seed}"


def shaping(overrides: Sequence[str]) -> list[str]:
    """Without those that only say what is looked at; a callback may end a run by what it sees, and then all count."""
    if any("callbacks" in word for word in overrides):
        return list(overrides)
    return [word for word in overrides if not word.startswith(OBSERVES)]


def check_folder(cell: Cell, study: Path) -> None:
    """Raise SystemExit if the cell's folder holds runs of settings that give other figures."""
    folder = cell.folder(study)
    saved = folder / OVERRIDES
    if saved.is_file() and shaping(json.loads(saved.read_text())) != shaping(cell.overrides):
        raise SystemExit(f"{folder} holds runs of other settings: remove it, or choose another --runs folder")


def status(run: Path) -> str:
    """missing, started, or finished."""
    if not (run / "config.yaml").is_file():
        return "missing"
    record = run / "run.json"
    done = record.is_file() and json.loads(record.read_text()).get("status", "").startswith("finished")
    return "finished" if done else "started"


def commands(cell: Cell, study: Path) -> list[list[str]]:
    """The words behind `align` that bring a cell to its end: one for each run to resume, and one sweep of the rest.

    Raises:
        SystemExit: The folder holds runs of other settings.
    """
    folder = cell.folder(study)
    check_folder(cell, study)
    found = {seed: status(cell.run(study, seed)) for seed in cell.seeds}
    words = [[f"resume={cell.run(study, seed)}"] for seed, state in found.items() if state == "started"]
    missing = [str(seed) for seed, state in found.items() if state == "missing"]
    if missing:
        place = [f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=seed_${seed}"]
        words.append(["-m", *cell.overrides, f"seed={','.join(missing)}", *place])
    return words


def run_cells(
    cells: Sequence[Cell], study: Path, *, workers: int = 1, say: Callable[[str], None] = print
) -> list[tuple[Cell, int]]:
    """Bring every cell to its end, `workers` at once; returns the (cell, seed) that did not get there."""

    def bring(cell: Cell) -> None:
        folder = cell.folder(study)
        for words in commands(cell, study):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / OVERRIDES, json.dumps(list(cell.overrides)) + "\n")
            say(f"{folder.name}: align {' '.join(words[:1])} ... {words[-3] if words[0] == '-m' else ''}".rstrip(" ."))
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            with open(folder / "log.txt", "a") as log:
                subprocess.run(
                    [sys.executable, "-m", "align", *words], stdout=log, stderr=log, env=environment, check=False
                )

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(bring, cells))
    left = [(cell, seed) for cell in cells for seed in cell.seeds if status(cell.run(study, seed)) != "finished"]
    for cell, seed in left:
        say(f"not finished: {cell.run(study, seed)} (see {cell.folder(study) / 'log.txt'})")
    return left


@dataclass(frozen=True)
class Point:
    """One evaluation of one run."""

    study: str
    stage: str
    group: str
    arm: str
    setting: str
    seed: int
    phase: str  # before, during, after
    step: int
    tokens: int  # through the policy's updates so far
    gold: float
    proxy: float
    kl: float  # nats per response, k1
    length: float  # tokens of a response
    responses: int  # sampled so far in training
    fidelity: float | None  # credit fidelity of the first rollout, the start model's responses; in `after` alone
    made_by: str = ""  # the overrides of its cell that shape it


def points(cell: Cell, study: Path, *, fidelity: str = "credit/fidelity_all") -> list[Point]:
    """All evaluations of the cell's finished runs, in order.

    Raises:
        SystemExit: The folder holds runs of other settings.
    """
    check_folder(cell, study)
    out = []
    for seed in cell.seeds:
        folder = cell.run(study, seed)
        if status(folder) != "finished":
            continue
        run = load_run(folder)
        spent = {0: 0} | {record["step"]: int(record["tokens/policy"]) for record in run.steps}
        sampled = {0: 0} | {
            record["step"]: (record["rollout"] + 1) * int(run.setting("rollout", "batch_size")) for record in run.steps
        }
        first = next((record[fidelity] for record in run.steps if record["rollout"] == 0 and fidelity in record), None)
        for record in run.evaluations:
            step = record["step"]
            out.append(
                Point(
                    study=study.name,
                    stage=cell.stage,
                    group=cell.group,
                    arm=cell.arm,
                    setting=cell.setting,
                    seed=seed,
                    phase=record["phase"],
                    step=step,
                    tokens=spent[step],
                    gold=record["eval/reward/gold_mean"],
                    proxy=record["eval/reward/proxy_mean"],
                    kl=record["eval/kl_per_response"],
                    length=record["eval/verbosity/mean_tokens"],
                    responses=sampled[step],
                    fidelity=first if record["phase"] == "after" else None,
                    made_by=cell.made_by,
                )
            )
    return out


def write_points(path: Path, found: Iterable[Point]) -> None:
    """Raw points as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(point)) + "\n" for point in found))


def read_points(path: Path) -> list[Point]:
    """What `write_points` wrote; nothing where nothing was written."""
    return [Point(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


def at_end(found: Iterable[Point]) -> dict[int, Point]:
    """The last evaluation by seed."""
    return {point.seed: point for point in found if point.phase == "after"}


def curves(found: Iterable[Point]) -> dict[int, list[Point]]:
    """All evaluations by seed, in order of steps; the last one alone where one was made during and after a step."""
    by_seed: dict[int, dict[int, Point]] = {}
    for point in found:
        by_seed.setdefault(point.seed, {})[point.step] = point
    return {seed: [steps[step] for step in sorted(steps)] for seed, steps in by_seed.items()}


def best_setting(found: Sequence[Point]) -> dict[tuple[str, str], str]:
    """(group, arm) -> the setting with the highest mean gold reward at the end of its tuning runs."""
    ends: dict[tuple[str, str], dict[str, list[float]]] = {}
    for point in found:
        if point.stage == "tune" and point.phase == "after":
            ends.setdefault((point.group, point.arm), {}).setdefault(point.setting, []).append(point.gold)
    return {
        key: max(settings, key=lambda name: sum(settings[name]) / len(settings[name])) for key, settings in ends.items()
    }
