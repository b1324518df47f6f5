"""From a run's data to one self-contained page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from align import metrics
from align.files import write_atomic
from align.numbers import clock, number
from align.report.curves import main_curves, other_curves
from align.report.load import Run, at, load_run

REPORT = "report.html"


@dataclass(frozen=True)
class Row:
    """A line of the headline table, formatted."""

    label: str
    definition: str
    before: str
    after: str
    interval: str  # of `after`, where there is one
    change: str


def write_report(folder: Path) -> Path:
    """Write `report.html` of the run in `folder`, from what lies in it, and return its path.

    Raises:
        InputError: `folder` is not a run's.
    """
    path = folder / REPORT
    write_atomic(path, render(load_run(folder)))
    return path


def render(run: Run) -> str:
    """The page. Everything a model wrote reaches it as JSON and is shown as text."""
    environment = Environment(
        loader=PackageLoader("align.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts, more = main_curves(run), other_curves(run)
    return environment.get_template("report.html").render(
        run=run,
        title=_title(run),
        status=str(run.facts.get("status", "unknown")),
        stopped=run.facts.get("stopped"),
        error=run.facts.get("error"),
        headline=headline(run.evaluation),
        judge=at(run.evaluation, "settings", "judge"),
        settings=run.evaluation.get("settings") or {},
        charts=charts,
        more=more,
        curves=[{"labels": c.labels, **c.points} for c in (*charts, *more)],
        pairs=pairs(run.samples),
        facts=facts(run),
        command=_command(run.facts.get("command")),
        config=yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True),
        bad_steps=run.steps[-1].get("event/bad_steps", 0) if run.steps else 0,
    )


def headline(evaluation: Mapping[str, Any]) -> list[Row]:
    """The figures of `metrics.HEADLINE`, before and after; those that neither evaluation has are left out."""
    old, new = metrics.flatten(evaluation.get("before") or {}), metrics.flatten(evaluation.get("after") or {})
    rows = []
    for name, label in metrics.HEADLINE:
        before, after = old.get(name), new.get(name)
        if before is None and after is None:
            continue
        change = after - before if after is not None and before is not None else None
        low, high = (new.get(name.replace("/mean", end)) for end in ("/low", "/high"))
        interval = f"{number(low)} to {number(high)}" if name.endswith("win_rate/mean") and low is not None else ""
        definition = metrics.lookup(name).definition
        rows.append(Row(label, definition, number(before), number(after), interval, number(change, signed=True)))
    return rows


def pairs(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Start and trained responses to the same prompts, for the browser of completions; [] where either lacks."""
    after = {s["prompt_id"]: s for s in samples.get("after", ())}
    return [
        {"id": s["prompt_id"], "prompt": s["prompt"], "before": _shown(s), "after": _shown(after[s["prompt_id"]])}
        for s in samples.get("before", ())
        if s["prompt_id"] in after
    ]


def _shown(sample: Mapping[str, Any]) -> dict[str, Any]:
    rewards = sample.get("token_rewards")
    return {
        "text": sample["response"],
        "tokens": sample["tokens"],
        "ended": sample["ended"],
        "proxy": sample["proxy"],
        "gold": sample["gold"],
        "pieces": sample["pieces"],
        "rewards": None if rewards is None else [None if r is None else round(r, 4) for r in rewards],
        "segments": sample.get("segments"),
    }


def facts(run: Run) -> list[tuple[str, str]]:
    """What was run, on what, for how long: label and text."""
    hardware, seconds = run.facts.get("hardware") or {}, run.facts.get("seconds") or {}
    versions = run.facts.get("versions") or {}
    git = run.facts.get("git") or {}
    commit = git.get("commit", "")[:12] + (" with uncommitted changes" if git.get("changed") else "")
    peak = run.facts.get("peak_memory_mib")
    model = at(run.facts, "reward_model", "held_out") or {}
    judged = f"{number(model.get('accuracy'))}; the longer one wins: {number(model.get('longer_wins'))}"
    rows = [
        ("model", run.setting("model", "path")),
        ("data", run.setting("data", "path")),
        ("reward", _reward(run)),
        ("reward model, held-out pair accuracy", judged if model.get("accuracy") is not None else ""),
        ("adapter", run.setting("adapter", "name")),
        ("quantization", run.setting("quantization", "name")),
        ("updates", f"{run.steps[-1]['step']} of {run.setting('max_steps')}" if run.steps else "0"),
        ("policy tokens", f"{run.steps[-1]['tokens/policy']:,.0f}" if _has(run, "tokens/policy") else ""),
        ("seed", run.setting("seed")),
        ("started", run.facts.get("started")),
        ("time by phase", ", ".join(f"{k.replace('_', ' ')} {clock(v)}" for k, v in seconds.items() if v >= 0.5)),
        ("peak memory", f"{peak:,.0f} MiB" if peak else ""),
        ("precision", run.facts.get("precision")),
        ("hardware", ", ".join(str(hardware[k]) for k in ("accelerator", "device", "processor") if hardware.get(k))),
        ("threads", hardware.get("threads")),
        ("commit", commit),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [(label, str(value)) for label, value in rows if value not in (None, "")]


def _title(run: Run) -> str:
    reward = _reward(run)
    return run.method.upper() + (f", {reward}" if reward else "")


def _reward(run: Run) -> str:
    source, credit = run.setting("reward", "source", "name"), run.setting("reward", "credit", "name")
    return f"{str(source).replace('_', ' ')} with {credit} credit" if source and credit else ""


def _has(run: Run, name: str) -> bool:
    return bool(run.steps) and run.steps[-1].get(name) is not None


def _command(command: Any) -> str:
    """The command line that repeats the run, whatever the program was called as."""
    words = shlex.split(str(command)) if command else []
    return shlex.join(["python", "-m", "align", *words[1:]]) if words else ""
