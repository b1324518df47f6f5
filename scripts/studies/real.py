"""Runs of studies on a real model: a process each, and a point for each that ended.

A point is a line of a JSON file that is written as soon as its run has ended, also where it ended in an error, which is
an outcome. A study that was stopped is picked up by the same command: points that are there are not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from align.files import write_atomic

ROOT = Path(__file__).parents[2]
EVALUATED = {  # figure of a point -> its place in an evaluation
    "chosen": "preference/perplexity_chosen",
    "chosen_low": "preference/perplexity_chosen_low",
    "chosen_high": "preference/perplexity_chosen_high",
    "rejected": "preference/perplexity_rejected",
    "general": "forgetting_perplexity",
    "kl": "kl_per_response",
    "kl_low": "kl_per_response_low",
    "kl_high": "kl_per_response_high",
    "accuracy": "preference/log_ratio/accuracy",
    "accuracy_low": "preference/log_ratio/accuracy_low",
    "accuracy_high": "preference/log_ratio/accuracy_high",
    "margin": "preference/log_ratio/margin",
    "margin_low": "preference/log_ratio/margin_low",
    "margin_high": "preference/log_ratio/margin_high",
    "accuracy_logprob": "preference/logprob/accuracy",
    "accuracy_per_token": "preference/per_token/accuracy",
    "proxy": "reward/proxy_mean",
    "proxy_se": "reward/proxy_se",
    "win_rate": "win_rate/mean",
    "win_rate_low": "win_rate/low",
    "win_rate_high": "win_rate/high",
    "win_rate_controlled": "win_rate/length_controlled/mean",
    "length": "verbosity/mean_tokens",
    "cut": "cut_rate",
    "repetition": "repetition/rate",
    "entropy": "diversity/entropy",
}


@dataclass(frozen=True)
class Job:
    """One run: what tells it from the study's others, and the words behind `align`."""

    labels: tuple[tuple[str, Any], ...]
    overrides: tuple[str, ...]
    places: tuple[str, ...] = ()  # overrides that differ between machines: paths

    @property
    def name(self) -> str:
        return "-".join(str(value) for _, value in self.labels)

    @property
    def made_by(self) -> str:
        """Stands in a point for the overrides that its figures depend on."""
        return hashlib.sha256("\n".join(self.overrides).encode()).hexdigest()[:12]


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """Build the command line that studies on a real model share."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--model", type=Path, help="folder of the model")
    options.add_argument("--model-name", default="SmolLM2-135M-Instruct", help="under which its points are kept")
    options.add_argument("--pairs", type=Path, help="JSON Lines of examples/qa_feedback.py")
    options.add_argument("--runs", type=Path, default=ROOT / "multirun" / "studies" / name, help="folder of runs")
    options.add_argument("--out", type=Path, default=ROOT / "docs" / "studies", help="where table and points go")
    options.add_argument("--workers", type=int, default=2, help="runs at once, a CPU thread each")
    options.add_argument("--only", nargs="*", default=[], help="jobs whose names begin with one of these")
    options.add_argument("--keep", action="store_true", help="keep the trained weights and checkpoints")
    options.add_argument("--report-only", action="store_true", help="write the table of the points that are there")
    return options


def run_jobs(jobs: Sequence[Job], path: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is not among the points in `path`; returns the points of `jobs`, in their order.

    A point that a job's settings of before made is replaced when the job has run again.
    """
    points = {(p["name"], p["made_by"]): p for p in read(path)}
    todo = [job for job in jobs if (job.name, job.made_by) not in points]
    todo = [job for job in todo if not args.only or job.name.startswith(tuple(args.only))]
    lock = Lock()

    def bring(job: Job) -> None:
        point = run(job, args.runs / job.name, args)
        if point is None:
            print(f"{job.name}: stopped; the same command makes it anew", flush=True)
            return
        with lock:
            others = [p for p in read(path) if p["name"] != job.name]
            points[job.name, job.made_by] = point
            write_atomic(path, "".join(json.dumps(p) + "\n" for p in [*others, point]))
        print(f"{job.name}: {point['status']}, {point['seconds']:.0f} s", flush=True)

    if not args.report_only:
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(bring, todo))
    return [points[key] for job in jobs if (key := (job.name, job.made_by)) in points]


def run(job: Job, folder: Path, args: argparse.Namespace) -> dict[str, Any] | None:
    """Run one job and measure it; None where the process was stopped from outside."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    threads = max(1, (os.cpu_count() or 1) // args.workers)
    words = [
        sys.executable,
        "-m",
        "align",
        *job.overrides,
        *job.places,
        f"threads={threads}",
        f"hydra.run.dir={folder}",
    ]
    started = time.monotonic()
    with open(folder / "log.txt", "w") as log:
        code = subprocess.run([*words, f"hydra.run.dir={folder}"], stdout=log, stderr=log, check=False).returncode
    if code < 0 or code >= 128:
        return None
    point = {"name": job.name, "made_by": job.made_by, **dict(job.labels), "overrides": list(job.overrides)}
    point |= {"exit": code, "seconds": round(time.monotonic() - started, 1), **measured(folder)}
    if not args.keep:
        for part in folder.iterdir():
            if part.is_dir():
                shutil.rmtree(part)
    return point


def measured(folder: Path) -> dict[str, Any]:
    """Collect a run's figures from its folder."""
    found: dict[str, Any] = {"status": last_line(folder / "log.txt")}
    if (folder / "run.json").is_file():
        record = json.loads((folder / "run.json").read_text())
        found |= {"status": record["status"], "spent": record.get("seconds"), "rates": record.get("auto")}
        found |= {"steps": record.get("step"), "memory_mib": record.get("peak_memory_mib")}
        found |= {"verdicts": record.get("verdicts"), "reward_model": record.get("reward_model")}
        if found["status"] == "failed":
            found["status"] = last_line(folder / "log.txt")
    if (folder / "evaluation.json").is_file():
        evaluation = json.loads((folder / "evaluation.json").read_text())
        found |= {phase: figures(evaluation[phase]) for phase in ("before", "after", "delta") if evaluation.get(phase)}
    return found


def figures(evaluation: dict[str, Any]) -> dict[str, float]:
    """Pick a point's figures from one evaluation."""
    picked = {}
    for name, place in EVALUATED.items():
        value: Any = evaluation
        for part in place.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            picked[name] = round(value, 5)
    return picked


def last_line(log: Path) -> str:
    """Read what a run said last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "said nothing"


def read(path: Path) -> list[dict[str, Any]]:
    """Read the points of a file; none where there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
