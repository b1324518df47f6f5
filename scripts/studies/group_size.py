"""Study 3: GRPO's group size, 2 to 16, at equal numbers of sampled responses, with sparse and with dense rewards.

python scripts/studies/group_size.py [--workers 2] [--smoke]

Every arm samples rollout.batch_size responses a rollout and takes the same number of updates, so that larger groups
mean fewer prompts; policy tokens differ where responses grow, and are shown.
"""

from __future__ import annotations

import sys

from analysis import paired, verdict
from output import NOTE, Panel, figure, mean_curve, over, table
from runs import Point, at_end, curves
from study import Arm, Group, Plan, conduct

SIZES = (2, 4, 8, 16)
PLAN = Plan(
    name="group_size",
    arms=tuple(
        Arm(f"{reward}_{size}", (f"reward={reward}", f"method.group_size={size}"))
        for reward in ("sparse", "dense")
        for size in SIZES
    ),
    groups=(Group("", ()),),
    settings=("method.learning_rate=1e-4", "method.learning_rate=3e-4", "method.learning_rate=1e-3"),
    overrides=("method=grpo", "rollout.batch_size=64", "max_steps=80", "evaluation.every_steps=20",
               "checkpoint.every_steps=20"),
)  # fmt: skip
HEAD = ["reward", "group size", "n", "k responses", "gold", "gold - size 2's", "proxy", "KL, nats", "k policy tokens",
        "length"]  # fmt: skip


def golds(ends: dict[int, Point]) -> dict[int, float]:
    """By seed, to be paired."""
    return {seed: point.gold for seed, point in ends.items()}


def row(reward: str, size: int, ends: dict[int, Point], smallest: dict[int, Point]) -> list[str]:
    points = ends.values()
    difference = paired(golds(ends), golds(smallest))
    return [
        reward,
        str(size),
        str(len(ends)),
        figure(over(p.responses / 1000 for p in points), 2),
        figure(over(p.gold for p in points)),
        "-" if size == SIZES[0] else figure(difference, sign=True),
        figure(over(p.proxy for p in points)),
        figure(over(p.kl for p in points), 2),
        figure(over(p.tokens / 1000 for p in points), 0),
        figure(over(p.length for p in points), 1),
    ]


def dense_against_sparse(own: list[Point]) -> list[str]:
    """A line on what dense rewards do in groups of each size that was run both ways."""
    found = []
    for size in SIZES:
        dense, sparse = (golds(at_end(p for p in own if p.arm == f"{reward}_{size}")) for reward in ("dense", "sparse"))
        if dense and sparse:
            found.append(f"{figure(paired(dense, sparse), sign=True)} in groups of {size}")
    return [f"- Dense rewards against sparse ones, gold at the end: {', '.join(found)}."] if found else []


def report(plan: Plan, found: list[Point]) -> tuple[str, list[Panel]]:
    own = [p for p in found if p.stage == "report"]
    rows, panels, says = [], [], []
    for reward in ("sparse", "dense"):
        ends = {size: at_end(p for p in own if p.arm == f"{reward}_{size}") for size in SIZES}
        ends = {size: points for size, points in ends.items() if points}
        rows += [row(reward, size, points, ends.get(SIZES[0], {})) for size, points in ends.items()]
        lines = [
            mean_curve(
                f"size {size}",
                curves(p for p in own if p.arm == f"{reward}_{size}").values(),
                lambda p: p.responses,
                lambda p: p.gold,
            )
            for size in ends
        ]
        panels.append(Panel(reward, "responses sampled", "gold reward", [line for line in lines if line is not None]))
        if len(ends) > 1:
            largest, smallest = max(ends), min(ends)
            difference = paired(golds(ends[largest]), golds(ends[smallest]))
            says.append(
                f"- {reward}: groups of {largest} against {smallest}: gold {figure(difference, sign=True)}; that "
                f"larger groups help at equal samples is {verdict(difference, 1)}."
            )
    says += dense_against_sparse(own)
    lines = ["# Group size at equal samples", "", "![gold reward over sampled responses](group_size.svg)", ""]
    lines += [table(HEAD, rows), f"{NOTE} gold - size 2's: paired by seed.", "", "## What this says", "", *says]
    return "\n".join(lines) + "\n", panels


if __name__ == "__main__":
    sys.exit(conduct(PLAN, report))
