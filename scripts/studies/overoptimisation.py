"""Study 2: over-optimisation. Gold and proxy reward against sqrt(KL), a single reward model against an ensemble.

python scripts/studies/overoptimisation.py [--workers 2] [--smoke]

Gao et al. (arXiv 2210.10760): with d = sqrt(KL), the gold reward that RL gains is d (alpha - beta log d). The form is
fitted to all evaluations of each run without KL penalty; runs with a penalty are drawn over it and not fitted. One
setting per arm, chosen beforehand, so nothing is tuned: arms are compared along KL and not at an end.
"""

from __future__ import annotations

import statistics
import sys

from analysis import Fit, fit_overoptimisation, value_when
from output import NOTE, Line, Panel, figure, over, table
from runs import Point, curves
from study import Arm, Group, Plan, conduct

from align.numbers import Interval

SOURCES = {"single": ("reward/source=reward_model",), "ensemble": ("reward/source=ensemble",)}
PENALTIES = ("0", "0.05", "0.2")  # beta
PLAN = Plan(
    name="overoptimisation",
    arms=tuple(
        Arm(f"{name}_{beta}", (*words, f"method.kl.coef={beta}"), 5 if beta == "0" else 3)
        for name, words in SOURCES.items()
        for beta in PENALTIES
    ),
    groups=(Group("", ()),),
    settings=("method.learning_rate=5e-4",),
    overrides=("method=ppo", "reward/credit=sparse", "data=pocket_long", "max_steps=80", "evaluation.every_steps=5",
               "checkpoint.every_steps=20"),
)  # fmt: skip
MANNERS = ((0.8, "follows"), (0.5, "follows in part"), (float("-inf"), "hardly follows"))  # by R2
HEAD = ["reward", "n", "fit of", "alpha", "beta", "R2", "d at the top", "KL at the top, nats", "top, seen",
        "at the end", "KL at the end"]  # fmt: skip


def root(point: Point) -> float:
    """d; an estimate of KL below 0 counts as none."""
    return max(point.kl, 0.0) ** 0.5


def gains(curve: list[Point], name: str) -> list[float]:
    """Reward less the start model's, along a run."""
    return [getattr(point, name) - getattr(curve[0], name) for point in curve]


def fits(runs: dict[int, list[Point]], name: str) -> list[Fit]:
    """A fit for each run that has gone far enough for one."""
    return [
        fit_overoptimisation([root(p) for p in curve], gains(curve, name))
        for curve in runs.values()
        if len({root(p) for p in curve if root(p) > 0}) > 1
    ]


def row(source: str, runs: dict[int, list[Point]], name: str) -> list[str]:
    found, every = fits(runs, name), [gains(curve, name) for curve in runs.values()]
    farthest = max(root(point) for curve in runs.values() for point in curve)
    peaks = [fit.peak for fit in found if fit.peak is not None and fit.peak <= farthest]
    return [
        source,
        str(len(runs)),
        name,
        figure(over(fit.alpha for fit in found)),
        figure(over(fit.beta for fit in found)),
        figure(over(fit.r2 for fit in found), 2),
        f"{statistics.median(peaks):.2f}" if peaks else "-",
        f"{statistics.median(peak**2 for peak in peaks):.1f}" if peaks else "-",
        figure(over(max(gain) for gain in every)),
        figure(over(gain[-1] for gain in every)),
        figure(over(curve[-1].kl for curve in runs.values()), 1),
    ]


def pooled(runs: dict[int, list[Point]], name: str) -> Line | None:
    """The curve fitted to all runs at once, to be drawn."""
    d = [root(p) for curve in runs.values() for p in curve]
    gain = [value for curve in runs.values() for value in gains(curve, name)]
    if len({x for x in d if x > 0}) < 2:
        return None
    fit = fit_overoptimisation(d, gain)
    grid = [max(d) * i / 60 for i in range(61)]
    return Line(f"{name}, fitted", grid, [fit(x) for x in grid])


def panel(source: str, by_beta: dict[str, dict[int, list[Point]]]) -> Panel:
    lines: list[Line] = []
    free = by_beta.get("0", {})
    for name in ("gold", "proxy"):
        fitted = pooled(free, name)
        lines += [fitted] if fitted is not None else []
        points = [(root(p), gain) for curve in free.values() for p, gain in zip(curve, gains(curve, name), strict=True)]
        lines.append(Line(f"{name}, no penalty", [x for x, _ in points], [y for _, y in points], points=True))
    for beta, runs in by_beta.items():
        if beta != "0":
            points = [(root(p), g) for c in runs.values() for p, g in zip(c, gains(c, "gold"), strict=True)]
            lines.append(Line(f"gold, beta {beta}", [x for x, _ in points], [y for _, y in points], points=True))
    return Panel(
        f"{source} reward model" if source == "single" else source, "sqrt(KL), nats^0.5", "reward gained", lines
    )


def penalised(by_beta: dict[str, dict[int, list[Point]]]) -> list[list[str]]:
    """What each penalty comes to, beside what the unpenalised runs had at the same KL."""
    out = []
    for beta, runs in by_beta.items():
        ends = [curve[-1] for curve in runs.values()]
        free = [
            value_when([p.kl for p in curve], gains(curve, "gold"), end.kl)
            for end in ends
            for curve in by_beta.get("0", {}).values()
        ]
        gained = over(gains(curve, "gold")[-1] for curve in runs.values())
        same = "-" if beta == "0" else figure(over(free))
        out.append([beta, str(len(runs)), figure(over(e.kl for e in ends), 2), figure(gained), same])
    return out


def report(plan: Plan, found: list[Point]) -> tuple[str, list[Panel]]:
    every: dict[str, dict[str, dict[int, list[Point]]]] = {}
    for arm in plan.arms:
        own = curves(p for p in found if p.arm == arm.name and p.stage == "report")
        if own:
            source, _, beta = arm.name.rpartition("_")
            every.setdefault(source, {})[beta] = own
    rows = [row(source, by["0"], name) for source, by in every.items() if "0" in by for name in ("gold", "proxy")]
    lines = ["# Over-optimisation", "", "![gold and proxy over sqrt(KL)](overoptimisation.svg)", ""]
    lines += ["Runs without KL penalty, fitted one by one with gain = d (alpha - beta log d), d = sqrt(KL):", ""]
    lines += [table(HEAD, rows), f"{NOTE} d at the top: median of the runs whose fit has one where they went.", ""]
    for source, by in every.items():
        lines += [f"Penalised runs, {source} (gold gained at the end; overlaid, not fitted):", ""]
        lines += [table(["beta", "n", "KL, nats", "gold gained", "without penalty at that KL"], penalised(by)), ""]
    lines += ["## What this says about the claim", "", *claim(every)]
    return "\n".join(lines) + "\n", [panel(source, by) for source, by in every.items()]


def claim(every: dict[str, dict[str, dict[int, list[Point]]]]) -> list[str]:
    out = []
    for source, by in every.items():
        found = fits(by.get("0", {}), "gold")
        beta, r2 = over(fit.beta for fit in found), over(fit.r2 for fit in found)
        if beta is None or r2 is None:
            continue
        bends = beta.half is not None and beta.mean - beta.half > 0
        shape = "bends down" if bends else "is not shown to bend down"
        manner = next(word for least, word in MANNERS if r2.mean >= least)
        out.append(
            f"- Gao et al., {source}: gold {manner} d (alpha - beta log d), R2 {figure(r2, 2)}, beta "
            f"{figure(beta)}: it {shape} as KL grows (an analogue at our own scale)."
        )
        out += [f"- {line}" for line in frontier(source, by)]
    return out


def frontier(source: str, by: dict[str, dict[int, list[Point]]]) -> list[str]:
    """Whether a penalty gains more than stopping early does: each run's end, less the free runs' mean at its KL."""
    out = []
    for beta, runs in by.items():
        differences = []
        for curve in runs.values() if beta != "0" else ():
            free = over(value_when([p.kl for p in c], gains(c, "gold"), curve[-1].kl) for c in by.get("0", {}).values())
            differences += [gains(curve, "gold")[-1] - free.mean] if free is not None else []
        if differences:
            difference = over(differences)
            out.append(
                f"{source}, beta {beta}: gold {figure(difference, sign=True)} against unpenalised runs stopped at the "
                f"same KL, which take fewer updates to get there; that a penalty is no better than stopping early (Gao "
                f"et al., on the KL penalty) is {no_better(difference)}."
            )
    return out


def no_better(difference: Interval | None) -> str:
    """What an interval says of a claim that there is no gain."""
    if difference is None or difference.half is None:
        return "not measured (fewer than two runs)"
    return "contradicted" if difference.mean - difference.half > 0 else "not contradicted"


if __name__ == "__main__":
    sys.exit(conduct(PLAN, report))
