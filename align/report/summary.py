"""Summaries of runs: a record for each, and the figures of each arm over its seeds.

An arm is the unit of comparison: a job's overrides without the seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.numbers import Interval, mean_interval
from align.report.load import Run, at, is_run, load_run

Record = Mapping[str, Any]
GOLD, PROXY, KL = "eval/reward/gold_mean", "eval/reward/proxy_mean", "eval/kl_per_response"


@dataclass(frozen=True)
class Peak:
    """The evaluation with the highest gold reward; the first of equals."""

    step: int  # updates made before it
    gold: float  # mean gold reward
    proxy: float  # mean score by the run's own reward
    kl: float  # to the start model, nats per response


def gold_peak(evaluations: Sequence[Record]) -> Peak | None:
    """Find where gold peaks over a run's evaluation records (those with a `phase` in log_history.jsonl).

    It marks over-optimisation: without a KL penalty the proxy reward keeps rising while the true reward rises,
    peaks and falls (Gao et al., arXiv 2210.10760). None where the run was evaluated at its two ends alone, or where the
    gold reward is not known.
    """
    known = [record for record in evaluations if all(record.get(name) is not None for name in (GOLD, PROXY, KL))]
    if not known or not any(record["phase"] == "during" for record in evaluations):
        return None
    best = max(known, key=lambda record: record[GOLD])
    return Peak(best["step"], best[GOLD], best[PROXY], best[KL])


def figures_of(folder: Path) -> dict[str, Any]:
    """Load the figures of the run in `folder`; null for what it did not reach.

    Returns:
        {"stopped": why it ended early, "phases": seconds of each, "metrics": the last step's record,
        "before", "after": evaluation summaries, "peak": where gold peaked, "verdicts": what went wrong}.
    """
    if not is_run(folder):
        return dict.fromkeys(("stopped", "metrics", "before", "after", "peak")) | {"phases": {}, "verdicts": []}
    return figures(load_run(folder))


def figures(run: Run) -> dict[str, Any]:
    """Return the figures of a loaded run, as `figures_of`."""
    peak = gold_peak(run.evaluations)
    return {
        "stopped": run.facts.get("stopped"),
        "phases": run.facts.get("seconds", {}),
        "metrics": run.steps[-1] if run.steps else None,
        "before": run.evaluation.get("before"),
        "after": run.evaluation.get("after"),
        "peak": peak and asdict(peak),
        "verdicts": run.facts.get("verdicts") or [],
    }


def _evaluated(*path: str) -> Callable[[Record], Any]:
    return lambda record: at(record, "after", *path)


def _forgetting(record: Record) -> float | None:
    before, after = (at(record, phase, "forgetting_perplexity") for phase in ("before", "after"))
    return None if before is None or after is None else after - before


def _seconds(record: Record) -> float | None:
    phases = record.get("phases")
    return sum(phases.values()) - phases.get("reward_model", 0.0) if phases else None


def _thousand_tokens(record: Record) -> float | None:
    tokens = at(record, "metrics", "tokens/policy")
    return None if tokens is None else tokens / 1000


@dataclass(frozen=True)
class Column:
    """A figure of the table."""

    label: str
    meaning: str
    read: Callable[[Record], float | None]
    console: bool = True  # whether the console's table, which is narrow, has it too


COLUMNS = (
    Column(
        "accuracy",
        "held-out pairs whose chosen response gained more log-probability, ties half",
        _evaluated("preference", "log_ratio", "accuracy"),
    ),
    Column(
        "margin", "of log-ratios, nats, mean over pairs", _evaluated("preference", "log_ratio", "margin"), console=False
    ),
    Column("gold reward", "mean true reward, where a world knows it", _evaluated("reward", "gold_mean")),
    Column("gold, short", "of the embedded world's short tasks", _evaluated("gold_by", "short"), console=False),
    Column("gold, long", "of its long tasks", _evaluated("gold_by", "long"), console=False),
    Column("proxy reward", "mean score by the job's own reward", _evaluated("reward", "proxy_mean")),
    Column("KL", "to the start model, nats per response; of best-of-n an upper bound", _evaluated("kl_per_response")),
    Column("KL, short", "of the embedded world's short tasks", _evaluated("kl_by", "short"), console=False),
    Column("KL, long", "of its long tasks", _evaluated("kl_by", "long"), console=False),
    Column("gold peak", "the highest gold reward on the way", lambda record: at(record, "peak", "gold")),
    Column("KL at peak", "the KL at which gold peaked", lambda record: at(record, "peak", "kl")),
    Column("proxy at peak", "the proxy reward there", lambda record: at(record, "peak", "proxy")),
    Column("win rate", "against the start model, ties half", _evaluated("win_rate", "mean")),
    Column("forgetting", "perplexity on general text, after - before", _forgetting),
    Column("length", "tokens of a response", _evaluated("verbosity", "mean_tokens")),
    Column("cut", "share of responses cut at the length limit", _evaluated("cut_rate")),
    Column("tokens, k", "thousand tokens through the policy's updates", _thousand_tokens),
    Column("seconds", "of the run, without the training of the reward model that all share", _seconds),
)


@dataclass(frozen=True)
class ArmFigures:
    """Figures of an arm over the jobs that finished."""

    overrides: tuple[str, ...]  # those that are not common to all arms
    jobs: int
    finished: int
    figures: dict[str, Interval | None]  # by column; None where no job has the figure


def arms(records: Sequence[Record], columns: Sequence[Column] = COLUMNS) -> list[ArmFigures]:
    """Summarise the arms, in the order of their first jobs. Values that are missing or not finite enter no mean."""
    shared, by_arm = common_overrides(records), members(records)
    own = [tuple(word for word in seedless(records[group[0]]) if word not in shared) for group in by_arm]
    return [_arm(words, [records[i] for i in group], columns) for words, group in zip(own, by_arm, strict=True)]


def members(records: Sequence[Record]) -> list[list[int]]:
    """Return the indices of each arm's records, in the order of `arms`."""
    by_arm: dict[tuple[str, ...], list[int]] = {}
    for i, record in enumerate(records):
        by_arm.setdefault(seedless(record), []).append(i)
    return list(by_arm.values())


def _arm(overrides: tuple[str, ...], jobs: Sequence[Record], columns: Sequence[Column]) -> ArmFigures:
    done = [job for job in jobs if job["exit_code"] == 0]
    figures: dict[str, Interval | None] = {}
    for column in columns:
        found = [column.read(job) for job in done]
        values = [value for value in found if value is not None and math.isfinite(value)]
        figures[column.label] = mean_interval(values) if values else None
    return ArmFigures(overrides, len(jobs), len(done), figures)


def common_overrides(records: Sequence[Record]) -> list[str]:
    """Return the overrides that all jobs have in common, seeds apart."""
    every = [seedless(record) for record in records]
    return [word for word in every[0] if all(word in words for words in every)] if every else []


def seedless(record: Record) -> tuple[str, ...]:
    """Return a job's overrides without the seed, which identify its arm."""
    return tuple(word for word in record["overrides"] if not word.lstrip("+").startswith("seed="))


def arm_names(found: Sequence[ArmFigures]) -> tuple[str, list[str]]:
    """Return a heading and the arms' names: values of the one key in which arms differ, else overrides.

    `method.name=ppo` is `method=ppo` there: every section of a configuration has its name in a key of its own.
    """
    keys = {arm.overrides[0].partition("=")[0] if len(arm.overrides) == 1 else "" for arm in found}
    if len(keys) == 1 and "" not in keys:
        return keys.pop().removesuffix(".name"), [arm.overrides[0].partition("=")[2] for arm in found]
    return "arm", [" ".join(word.replace(".name=", "=", 1) for word in arm.overrides) or "-" for arm in found]
