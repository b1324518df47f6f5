"""Facts of runs: settings, hardware, duration, failures, and the commands that repeat them."""

import shlex
from collections.abc import Sequence

from align.numbers import clock, number
from align.report.jobs import Arm, Job, named
from align.report.load import Run, at

SEVERAL = 4  # most differing values that are listed
# Facts of single runs: several runs have a table of them.
OF_A_RUN = ("updates", "policy tokens", "ended", "seed", "started", "time by phase")


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return labels and texts; where runs differ, up to SEVERAL values, else their number."""
    every: dict[str, dict[str, None]] = {}  # different texts, in order
    for run in runs:
        for label, text in _facts_of(run):
            if len(runs) == 1 or label not in OF_A_RUN:
                every.setdefault(label, {})[text] = None
    return [
        (label, " · ".join(texts) if len(texts) <= SEVERAL else f"{len(texts)} different values")
        for label, texts in every.items()
    ]


def _facts_of(run: Run) -> list[tuple[str, str]]:
    hardware, versions = run.facts.get("hardware") or {}, run.facts.get("versions") or {}
    seconds = run.facts.get("seconds") or {}
    git = run.facts.get("git") or {}
    commit = git.get("commit", "")[:12] + (" with uncommitted changes" if git.get("changed") else "")
    peak = run.facts.get("peak_memory_mib")
    model = at(run.facts, "reward_model", "held_out") or {}
    judged = f"{number(model.get('accuracy'))}; the longer one wins: {number(model.get('longer_wins'))}"
    rows = [
        ("model", run.setting("model", "path")),
        ("data", run.setting("data", "path")),
        ("reward", reward_of(run)),
        ("reward model, held-out pair accuracy", judged if model.get("accuracy") is not None else ""),
        ("adapter", run.setting("adapter", "name")),
        ("quantization", run.setting("quantization", "name")),
        ("updates", f"{run.steps[-1]['step']} of {run.setting('max_steps')}" if run.steps else "0"),
        ("policy tokens", tokens_of(run)),
        ("ended", str(run.facts["stopped"]) if _budget_spent(run) else ""),
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


def tokens_of(run: Run) -> str:
    """Format the tokens through the policy's updates; empty where no record counts them."""
    tokens = run.steps[-1].get("tokens/policy") if run.steps else None
    return f"{tokens:,.0f}" if tokens is not None else ""


def reward_of(run: Run) -> str:
    """Describe the reward: `reward model with sparse credit`."""
    source, credit = run.setting("reward", "source", "name"), run.setting("reward", "credit", "name")
    if source == "none":
        return "no reward"
    return f"{str(source).replace('_', ' ')} with {credit} credit" if source and credit else ""


def commands(runs: Sequence[Run]) -> list[str]:
    """Return the command lines that repeat the runs, as `python -m align`; the jobs of a sweep share one."""
    started = [shlex.split(str(run.facts.get("command") or "")) for run in runs]
    return list(dict.fromkeys(shlex.join(["python", "-m", "align", *words[1:]]) for words in started if words))


def run_rows(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Return a row for every job: the arm, then seed, status, verdicts, updates, tokens, time, folder."""
    return [(arm.name, _run_row(job)) for arm in arms for job in arm.jobs]


def _run_row(job: Job) -> list[str]:
    run = job.run
    if run is None:
        return ["-", "failed", *"-----"]
    seconds = sum((run.facts.get("seconds") or {}).values())
    updates = str(run.steps[-1]["step"]) if run.steps else "0"
    status = "failed" if job.failed else str(run.facts.get("status", "unknown"))
    verdicts = ", ".join(f"{found['level']}: {found['key']}" for found in run.facts.get("verdicts") or ()) or "-"
    spent = [updates, tokens_of(run) or "-", clock(seconds)]
    return [str(run.setting("seed")), status, verdicts, *spent, str(job.record["folder"])]


def failures(arms: Sequence[Arm]) -> list[tuple[str, str, str]]:
    """Collect what went wrong: (run, kind, description)."""
    found = []
    for arm in arms:
        for job in arm.jobs:
            who = _who(arm, job)
            if job.failed:
                found.append((who, "failed", str(job.record["error"] or "no reason is on record")))
            if job.unfinished and job.run is not None:
                found.append((who, "unfinished", _unfinished(job.run)))
            if job.run is not None:
                found += [(who, kind, text) for kind, text in _troubles(job.run)]
    return found


def _who(arm: Arm, job: Job) -> str:
    if job.run is None or job.run.setting("seed") is None:
        return f"job {job.record['job']}: {' '.join(job.record['overrides'])}"
    return named(arm, job.run)


def _unfinished(run: Run) -> str:
    status = run.facts.get("status", "unknown")
    step = f"update {run.steps[-1]['step']} of {run.setting('max_steps')}" if run.steps else "no update yet"
    return f"status {status}, {step}: it still runs, or was killed (align resume={run.folder})"


def _budget_spent(run: Run) -> bool:
    """Return whether the run ended at max_policy_tokens, as configured."""
    return "max_policy_tokens=" in str(run.facts.get("stopped"))


def _troubles(run: Run) -> list[tuple[str, str]]:
    out = []
    if run.facts.get("stopped") and not _budget_spent(run):
        out.append(("stopped early", str(run.facts["stopped"])))
    bad = run.steps[-1].get("event/bad_steps") if run.steps else None
    if bad:
        out.append(("not finite", f"{bad:.0f} updates or rollouts were not finite and not used; see bad_steps.jsonl"))
    out += [("callback failed", str(text)) for text in run.facts.get("callbacks_failed") or ()]
    return out
