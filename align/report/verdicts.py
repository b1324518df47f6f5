"""What went wrong in the jobs of a sweep or a report, by arm: counts for tables, and each verdict once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from align.errors import ERROR, NOTE, STYLES, WARNING, Verdict
from align.report.summary import Record, arm_names, arms, members

_WORDS = {ERROR: "failed", WARNING: "warned", NOTE: "noted"}  # of a job, by the worst of its verdicts


def verdict_cells(records: Sequence[Record]) -> list[str]:
    """Count the jobs of each arm by the worst that went wrong: `1 failed, 2 warned`; empty where nothing did."""
    return [_cell([_worst(records[i]) for i in group]) for group in members(records)]


def style_of(cell: str) -> str:
    """Return the console's style of a cell, by the worst that it counts."""
    return next((STYLES[level] for level, word in _WORDS.items() if word in cell), "")


def _cell(levels: Sequence[str | None]) -> str:
    counts = {word: levels.count(level) for level, word in _WORDS.items()}
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def _worst(record: Record) -> str | None:
    if record["exit_code"]:
        return ERROR
    found = [verdict["level"] for verdict in record.get("verdicts") or ()]
    return next((level for level in _WORDS if level in found), None)


def by_arm(records: Sequence[Record]) -> list[tuple[str, Verdict, int]]:
    """List the verdicts on jobs: the arm's name, the verdict on its first such job, and how many have it."""
    found = []
    heading, names = arm_names(arms(records))
    for arm, group in zip(names, members(records), strict=True):
        name = arm if heading == "arm" else f"{heading}={arm}"
        same: dict[tuple[str, str, str], list[Verdict]] = {}
        for i in group:
            for verdict in records[i].get("verdicts") or ():
                same.setdefault(_kind(verdict), []).append(Verdict(**verdict))
        found += [(name, verdicts[0], len(verdicts)) for verdicts in same.values()]
    return found


def _kind(verdict: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what verdicts of one kind share: level, key, and the text without its figures."""
    return verdict["level"], verdict["key"], re.sub(r"[-+]?\d[\d.e+-]*", "#", verdict["what"])


def line(name: str, verdict: Verdict, jobs: int) -> str:
    """Format a verdict on an arm as a line."""
    who = "" if name == "-" else f"{name}: "
    return f"{who}{verdict.line}{f', likewise in {jobs - 1} more' if jobs > 1 else ''}"
