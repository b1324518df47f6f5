"""The report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from align.files import write_atomic
from align.numbers import number
from align.report import facts, outcome_charts, tables
from align.report.charts import Chart, pack
from align.report.completions import completions
from align.report.jobs import Arm, Job, arms_of, config_differences, load_jobs
from align.report.load import at
from align.report.probes import probes
from align.report.training_charts import Curves

REPORT = "report.html"


@dataclass(frozen=True)
class Drawings:
    """All drawings of a report by section."""

    outcome: list[Chart]
    training: list[Chart]
    more: list[Chart]
    thinned: str  # note on curves with fewer points than steps, or empty

    @property
    def every(self) -> list[Chart]:
        """Return all charts in the page's order."""
        return [*self.outcome, *self.training, *self.more]


def write_report(*folders: Path, output: Path | None = None) -> Path:
    """Write the page of a run, of a sweep, or of several of either side by side, and return its path.

    Args:
        folders: Folders of runs or sweeps; a single one gets its page inside, as `report.html`.
        output: Path of the page; needed with several folders.

    Raises:
        InputError: A folder is neither a run's nor a sweep's.
    """
    if output is None and len(folders) != 1:
        raise ValueError("several folders have no common place for their page: give output")
    path = output or folders[0] / REPORT
    write_atomic(path, render(load_jobs(folders), path.resolve().parent.name))
    return path


def draw(arms: Sequence[Arm]) -> Drawings:
    """Draw every chart of these arms."""
    curves = Curves(arms)
    several = len(arms) > 1 or sum(len(arm.runs) for arm in arms) > 1
    trails = outcome_charts.frontiers(arms)
    if not several:  # the table has a run's two ends; a path needs evaluations between them
        trails = [chart for chart in trails if any(len(curve.y) > 2 for curve in chart.curves)]
    fixed = [outcome_charts.forgetting(arms) if several else None, outcome_charts.lengths(arms)]
    outcome = [*trails, *(chart for chart in fixed if chart is not None)]
    return Drawings(outcome, [*curves.training(), *curves.held_out()], curves.others(), curves.thinned())


def render(jobs: Sequence[Job], name: str) -> str:
    """Render the page. Text written by a model reaches it as JSON and is shown as text."""
    environment = Environment(
        loader=PackageLoader("align.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    heading, arms = arms_of(jobs)
    runs = [run for arm in arms for run in arm.runs]
    drawings = draw(arms)
    shown = completions(arms)
    return environment.get_template("report.html").render(
        title=_title(jobs, arms, heading),
        name=name,
        status=_status(jobs),
        single=len(jobs) == 1,
        arms=[arm.name for arm in arms],
        figures=drawings,
        charts=pack(drawings.every),
        headline=tables.headline(runs[0].evaluation) if len(jobs) == 1 and runs else [],
        comparison=tables.comparison([job.record for job in jobs]),
        note=tables.NOTE,
        all_figures=tables.all_figures(arms),
        judge=at(runs[0].evaluation, "settings", "judge") if runs else None,
        settings=(runs[0].evaluation.get("settings") or {}) if runs else {},
        probes=probes(arms),
        completions=shown,
        failures=facts.failures(arms),
        facts=facts.facts(runs),
        run_rows=facts.run_rows(arms),
        commands=facts.commands(runs),
        differences=config_differences(arms),
        config=yaml.safe_dump(dict(runs[0].config), sort_keys=False, allow_unicode=True) if runs else "",
    )


def _status(jobs: Sequence[Job]) -> str:
    if len(jobs) == 1 and jobs[0].run is not None:
        return str(jobs[0].run.facts.get("status", "unknown"))
    counts = {"failed": sum(job.failed for job in jobs), "unfinished": sum(job.unfinished for job in jobs)}
    parts = [f"{n} of {len(jobs)} {what}" for what, n in counts.items() if n]
    return ", ".join(parts) or "finished"


def _title(jobs: Sequence[Job], arms: Sequence[Arm], heading: str) -> str:
    if len(jobs) == 1 and jobs[0].run is not None:
        run = jobs[0].run
        return run.method.upper() + (f", {text}" if (text := facts.reward_of(run)) else "")
    names = ", ".join(arm.name for arm in arms)
    compared = (
        f": {heading} {names}" if len(arms) > 1 and len(names) < 60 else f" of {len(arms)} arms" * (len(arms) > 1)
    )
    return f"{len(jobs)} runs{compared}"
