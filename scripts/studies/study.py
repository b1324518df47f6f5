"""What the three studies share: the command line, tuning before reporting, and the files that they leave.

The arms of a study get the same number of settings. These are compared by gold reward on tuning prompts and seeds, and
the best of each arm is run on the seeds, and evaluated on the prompts, that are reported (data rows with split=tune and
split=report). A study that was stopped is picked up by the same command: finished runs stay, killed ones are resumed,
and points in docs/studies/NAME.jsonl that the same settings made count as done, on whatever machine. To measure anew,
remove both.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from output import Panel, draw
from runs import Cell, Point, best_setting, points, read_points, run_cells, write_points

from align.files import write_atomic

ROOT = Path(__file__).parents[2]
TUNING_SEEDS = (100,)
COMMON = ("threads=1", "evaluation.num_prompts=256", "evaluation.num_pairs=64", "evaluation.num_texts=32",
          "evaluation.num_probes=0")  # fmt: skip


Report = Callable[["Plan", list[Point]], tuple[str, list[Panel]]]


@dataclass(frozen=True)
class Arm:
    name: str
    overrides: tuple[str, ...]
    seeds: int = 5  # reported


@dataclass(frozen=True)
class Group:
    """What is compared for itself."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    name: str
    arms: tuple[Arm, ...]
    groups: tuple[Group, ...]
    settings: tuple[str, ...]  # one override each; a single one is not tuned
    overrides: tuple[str, ...]
    fidelity: Callable[[str], str] = lambda group: "credit/fidelity_all"  # which metric a group's fidelity is


def arguments(plan: Plan, words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Study {plan.name}: runs, table, figure and raw points.")
    parser.add_argument("--runs", type=Path, help=f"folder of runs (multirun/studies/{plan.name})")
    parser.add_argument("--out", type=Path, help="where table, figure and points go (docs/studies)")
    parser.add_argument("--workers", type=int, default=1, help="sweeps at once, a CPU thread each")
    parser.add_argument("--arms", nargs="*", choices=[a.name for a in plan.arms], help="some of the arms")
    parser.add_argument("--groups", nargs="*", choices=[g.name for g in plan.groups], help="some of the groups")
    parser.add_argument("--report-only", action="store_true", help="from the runs that are there; starts none")
    parser.add_argument("--smoke", action="store_true", help="two updates of two seeds: does it run? No result")
    args = parser.parse_args(words)
    args.runs = args.runs or ROOT / "multirun" / "studies" / (plan.name + ("-smoke" if args.smoke else ""))
    args.out = args.out or (args.runs if args.smoke else ROOT / "docs" / "studies")  # a smoke test leaves no result
    return args


def small(plan: Plan) -> Plan:
    """A plan to see that everything runs: two updates, two seeds, one setting."""
    tiny = ("max_steps=2", "evaluation.every_steps=1", "rollout.batch_size=16", "evaluation.num_prompts=8")
    tiny += ("evaluation.num_pairs=4", "evaluation.num_texts=2", "method.minibatch_size=16")
    arms = tuple(replace(arm, seeds=2) for arm in plan.arms)
    return replace(plan, arms=arms, settings=plan.settings[:1], overrides=(*plan.overrides, *tiny))


def narrowed(plan: Plan, args: argparse.Namespace) -> Plan:
    """The arms and groups that the command line asks for."""
    return replace(
        plan,
        arms=tuple(arm for arm in plan.arms if not args.arms or arm.name in args.arms),
        groups=tuple(group for group in plan.groups if not args.groups or group.name in args.groups),
    )


def tuning_cells(plan: Plan) -> list[Cell]:
    """Every setting of every arm, on tuning seeds and prompts; none where there is but one setting."""
    if len(plan.settings) == 1:
        return []
    return [
        _cell(plan, "tune", group, arm, setting, TUNING_SEEDS)
        for group in plan.groups
        for arm in plan.arms
        for setting in plan.settings
    ]


def report_cells(plan: Plan, chosen: dict[tuple[str, str], str]) -> list[Cell]:
    """The chosen setting of every arm on the reported seeds; an arm of which no tuning run finished is left out."""
    only = plan.settings[0] if len(plan.settings) == 1 else None
    cells = []
    for group in plan.groups:
        for arm in plan.arms:
            setting = only if only is not None else chosen.get((group.name, arm.name))
            if setting is not None:
                cells.append(_cell(plan, "report", group, arm, setting, tuple(range(arm.seeds))))
    return cells


def _cell(plan: Plan, stage: str, group: Group, arm: Arm, setting: str, seeds: tuple[int, ...]) -> Cell:
    where = f"data.held_out_where.split={stage}"
    words = (*COMMON, *arm.overrides, *group.overrides, where, *plan.overrides, setting)
    words += ("evaluation.every_steps=0",) if stage == "tune" else ()  # it is the end that settings are compared by
    last = {word.partition("=")[0]: word for word in words}  # Hydra takes each key once
    return Cell(stage, arm.name, setting, tuple(last.values()), seeds, group.name)


def conduct(
    plan: Plan, report: Callable[[Plan, list[Point]], tuple[str, list]], words: Sequence[str] | None = None
) -> int:
    """Run the study and write NAME.md, NAME.svg and NAME.jsonl; returns the exit code, 1 where a run is missing.

    Args:
        report: (plan, points) -> (Markdown, panels of the figure).
    """
    args = arguments(plan, words)
    whole = small(plan) if args.smoke else plan
    plan, left = narrowed(whole, args), []
    stored = valid(whole, read_points(args.out / f"{plan.name}.jsonl"))

    def measured(cells: list[Cell]) -> list[Point]:
        todo = [cell for cell in map(partial(undone, stored), cells) if cell.seeds]
        if not args.report_only:
            left.extend(run_cells(todo, args.runs, workers=args.workers))
        return [p for cell in todo for p in points(cell, args.runs, fidelity=plan.fidelity(cell.group))]

    found = stored + measured(tuning_cells(plan))
    write_points(args.out / f"{plan.name}.jsonl", found)  # nothing of it is lost if the rest does not end
    found += measured(report_cells(plan, best_setting(found)))
    found = chosen_alone(found)
    if not any(point.stage == "report" for point in found):
        print("no reported run has finished")
        return 1
    chosen = best_setting(found)
    plan = replace(
        whole,
        arms=tuple(arm for arm in whole.arms if any(p.arm == arm.name for p in found)),
        groups=tuple(group for group in whole.groups if any(p.group == group.name for p in found)),
    )
    text, panels = report(plan, found)
    write_points(args.out / f"{plan.name}.jsonl", found)
    draw(args.out / f"{plan.name}.svg", panels)
    write_atomic(args.out / f"{plan.name}.md", text + settings_note(plan, chosen))
    print(text)
    return 1 if left else 0


def valid(plan: Plan, stored: list[Point]) -> list[Point]:
    """The stored points that the plan would make the same way."""
    arms, groups = {arm.name: arm for arm in plan.arms}, {group.name: group for group in plan.groups}

    def same(p: Point) -> bool:
        known = p.arm in arms and p.group in groups and p.setting in plan.settings
        return known and p.made_by == _cell(plan, p.stage, groups[p.group], arms[p.arm], p.setting, ()).made_by

    return [p for p in stored if same(p)]


def chosen_alone(found: list[Point]) -> list[Point]:
    """Without reported points of a setting that has lost to another since they were made, of which a line is said."""
    best = best_setting(found)
    reported = {(p.group, p.arm, p.setting) for p in found if p.stage == "report"}
    lost = {(group, arm, setting) for group, arm, setting in reported if setting != best.get((group, arm), setting)}
    for group, arm, setting in sorted(lost):
        print(f"left out: {group} {arm} under {setting}, which is not its best setting any more")
    return [p for p in found if p.stage != "report" or (p.group, p.arm, p.setting) not in lost]


def undone(stored: list[Point], cell: Cell) -> Cell:
    """The cell with the seeds of which no stored point tells the end."""
    own = (cell.stage, cell.group, cell.arm, cell.setting)
    ended = {p.seed for p in stored if p.phase == "after" and (p.stage, p.group, p.arm, p.setting) == own}
    return replace(cell, seeds=tuple(seed for seed in cell.seeds if seed not in ended))


def settings_note(plan: Plan, chosen: dict[tuple[str, str], str]) -> str:
    """Which setting each arm was given, and how to repeat it all."""
    lines = [
        "",
        "## Settings",
        "",
        f"`python scripts/studies/{plan.name}.py` repeats the study; raw points: {plan.name}.jsonl.",
    ]
    lines += [f"Common to all runs: `{' '.join((*COMMON, *plan.overrides))}`.", ""]
    lines += [f"- {group.name}: `{' '.join(group.overrides)}`" for group in plan.groups if group.overrides]
    lines += [f"- {arm.name}: `{' '.join(arm.overrides)}`" for arm in plan.arms]
    if chosen:
        lines += ["", f"Each arm's best of {', '.join(f'`{s}`' for s in plan.settings)} by gold at the end on the"]
        lines += [f"tuning prompts, seed {', '.join(map(str, TUNING_SEEDS))}:", ""]
        lines += [f"- {' '.join(key).strip()}: `{setting}`" for key, setting in chosen.items()]
    return "\n".join(lines) + "\n"
