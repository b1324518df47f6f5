"""The report as one self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from align.files import write_atomic
from align.numbers import number
from align.report import facts, tables
from align.report.charts import pack
from align.report.completions import completions
from align.report.drawings import draw
from align.report.jobs import Arm, Job, arms_of, config_differences, load_jobs
from align.report.load import at
from align.report.probes import probes
from align.report.verdicts import by_arm

REPORT = "report.html"


def write_report(*folders: Path, output: Path | None = None) -> Path:
    """Write the page of a run, of a sweep, or of several of either side by side, and return its path.

    A single folder gets its page inside, as `report.html`; several need an `output`.

    Raises:
        InputError: A folder is neither a run's nor a sweep's.
    """
    if output is None and len(folders) != 1:
        raise ValueError("several folders have no common place for their page: give output")
    path = output or folders[0] / REPORT
    write_atomic(path, render(load_jobs(folders), path.resolve().parent.name))
    return path


def environment() -> Environment:
    """Make the environment of pages: texts are escaped, and a name that is missing is an error."""
    made = Environment(
        loader=PackageLoader("align.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = number
    return made


def render(jobs: Sequence[Job], name: str) -> str:
    """Render the page. Text written by a model reaches it as JSON and is shown as text."""
    heading, arms = arms_of(jobs)
    runs = [run for arm in arms for run in arm.runs]
    drawings = draw(arms)
    shown = completions(arms)
    return (
        environment()
        .get_template("report.html")
        .render(
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
            verdicts=by_arm([job.record for job in jobs]),
            facts=facts.facts(runs),
            run_rows=facts.run_rows(arms),
            commands=facts.commands(runs),
            differences=config_differences(arms),
            config=yaml.safe_dump(dict(runs[0].config), sort_keys=False, allow_unicode=True) if runs else "",
        )
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
