"""The report's figures as SVG files and its tables as Markdown, for papers and slides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from align.files import write_atomic
from align.report import tables
from align.report.jobs import Arm, Job, arms_of, load_jobs
from align.report.page import draw
from align.report.probes import probes
from align.report.svg import svg

TABLES = "tables.md"


def export(folders: Sequence[Path], target: Path) -> Path:
    """Write every figure, one file for each horizontal axis that it has, and tables.md; returns `target`.

    Raises:
        InputError: A folder is neither a run's nor a sweep's.
    """
    jobs = load_jobs(folders)
    _, arms = arms_of(jobs)
    for one in draw(arms).every:
        for axis in one.axes:
            suffix = f"_by_{axis}" if len(one.axes) > 1 else ""
            write_atomic(target / f"{_slug(one.title)}{suffix}.svg", svg(one, axis))
    write_atomic(target / TABLES, markdown(jobs, arms))
    return target


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def markdown(jobs: Sequence[Job], arms: Sequence[Arm]) -> str:
    """Format the headline figures, every figure of the evaluation, and the probes."""
    parts = [tables.markdown([job.record for job in jobs])]
    if len(jobs) == 1 and jobs[0].run is not None:
        rows = [[r.label, r.before, f"{r.after} ({r.interval})" if r.interval else r.after, r.change]
                for r in tables.headline(jobs[0].run.evaluation)]  # fmt: skip
        parts += ["## Before and after", "", *tables.markdown_table(["figure", "before", "after", "change"], rows), ""]
    names = [arm.name for arm in arms]
    every = [[f"`{label}`", *cells] for label, _, cells in tables.all_figures(arms)]
    if every:
        parts += ["## Every figure of the evaluation at the end", ""]
        parts += [*tables.markdown_table(["figure", *names], every), ""]
    heat = probes(arms)
    if heat is not None:
        head = ["perturbation", *(f"{arm} {figure}".strip("- ") for arm, figure in heat.columns)]
        rows = [[name, *(f"{cell.text} {cell.error}".strip() for cell in cells)] for name, cells in heat.rows]
        parts += ["## Reward-hacking probes", "", *tables.markdown_table(head, rows), ""]
    return "\n".join(parts)
