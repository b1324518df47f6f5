"""Study 1: what dense credit does. Sparse, uniform, prefix, attention and implicit credit, and the true one above them.

python scripts/studies/credit.py [--workers 2] [--smoke]

On short and on long responses apart, at equal policy tokens: gold and proxy reward, gold at matched KL, tokens to reach
95% of sparse credit's rise, spread over seeds, credit fidelity on the start model's responses.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

from analysis import first_reach, level_of, paired, value_when, verdict
from output import NOTE, Line, Panel, figure, mean_curve, over, reached, table
from runs import Point, at_end, curves
from study import Arm, Group, Plan, conduct

MODEL = "reward/source=reward_model"
CLAIMED = 10  # seeds of the arms about which something is claimed
PLAN = Plan(
    name="credit",
    arms=(
        Arm("sparse", (MODEL, "reward/credit=sparse"), CLAIMED),
        Arm("uniform", (MODEL, "reward/credit=uniform"), CLAIMED),
        Arm("prefix", (MODEL, "reward/credit=prefix")),
        Arm("prefix_trained", (MODEL, "reward.source.trained_on=prefixes", "reward/credit=prefix")),
        Arm("attention", (MODEL, "reward/credit=attention"), CLAIMED),
        Arm("implicit", (MODEL, "reward/credit=implicit"), CLAIMED),
        Arm("gold_sparse", ("reward/source=gold", "reward/credit=sparse")),
        Arm("truth", ("reward/source=gold", "reward/credit=truth")),
    ),
    groups=(
        Group("short", ("+data.train_where.length=short", "+data.held_out_where.length=short",
                        "rollout.max_new_tokens=32", "max_policy_tokens=40_000")),
        Group("long", ("+data.train_where.length=long", "+data.held_out_where.length=long",
                       "rollout.max_new_tokens=128", "max_policy_tokens=120_000")),
    ),
    settings=("method.learning_rate=1e-4", "method.learning_rate=3e-4", "method.learning_rate=1e-3"),
    overrides=("method=ppo", "max_steps=100_000", "evaluation.every_steps=10", "checkpoint.every_steps=20"),
    fidelity=lambda group: f"credit/fidelity_{group}",
)  # fmt: skip
SAME_PROXY = ("sparse", "uniform", "prefix", "attention", "implicit")  # scored by the same reward model
HEAD = ["credit", "n", "gold", "sd over seeds", "gold - sparse's", "proxy", "KL, nats", "gold at matched KL",
        "k tokens to 95% of gold", "k tokens to 95% of proxy", "length", "fidelity"]  # fmt: skip

Read = Callable[[Point], float]


def gold(point: Point) -> float:
    return point.gold


def proxy(point: Point) -> float:
    return point.proxy


class Measured:
    """The reported runs of one group, by arm."""

    def __init__(self, group: str, found: list[Point]) -> None:
        own = [p for p in found if p.stage == "report" and p.group == group]
        self.arms = [arm.name for arm in PLAN.arms if any(p.arm == arm.name for p in own)]
        self.curves = {arm: curves(p for p in own if p.arm == arm) for arm in self.arms}
        self.ends = {arm: at_end(p for p in own if p.arm == arm) for arm in self.arms}
        self.kl = min(statistics.fmean(p.kl for p in ends.values()) for ends in self.ends.values())

    def end(self, arm: str, read: Read) -> dict[int, float]:
        return {seed: read(point) for seed, point in self.ends.get(arm, {}).items()}

    def against_sparse(self, arm: str, read: Read) -> str:
        difference = paired(self.end(arm, read), self.end("sparse", read))
        return "-" if arm == "sparse" else figure(difference, sign=True)

    def tokens_to_level(self, arm: str, read: Read) -> list[float | None] | None:
        """By seed; None where sparse credit was not run or has not risen."""
        base = self.curves.get("sparse", {}).values()
        if not base:
            return None
        start = statistics.fmean(read(curve[0]) for curve in base)
        end = statistics.fmean(read(curve[-1]) for curve in base)
        if end <= start:
            return None
        level = level_of(start, end)
        return [first_reach([p.tokens for p in c], [read(p) for p in c], level) for c in self.curves[arm].values()]

    def row(self, arm: str) -> list[str]:
        ends = self.ends[arm].values()
        at_kl = [value_when([p.kl for p in c], [p.gold for p in c], self.kl) for c in self.curves[arm].values()]
        by_gold, by_proxy = (self.tokens_to_level(arm, read) for read in (gold, proxy))
        spread = statistics.stdev(p.gold for p in ends) if len(ends) > 1 else None
        own_proxy = arm in SAME_PROXY
        return [
            arm,
            str(len(ends)),
            figure(over(p.gold for p in ends)),
            "-" if spread is None else f"{spread:.3f}",
            self.against_sparse(arm, gold),
            figure(over(p.proxy for p in ends)) + ("" if own_proxy else " *"),
            figure(over(p.kl for p in ends), 2),
            figure(over(at_kl)) + (f" (n={sum(v is not None for v in at_kl)})" if None in at_kl else ""),
            "-" if by_gold is None else reached(by_gold),
            "-" if by_proxy is None or not own_proxy else reached(by_proxy),
            figure(over(p.length for p in ends), 1),
            figure(over(p.fidelity for p in ends)) + (" (not ranked)" if arm.endswith("sparse") else ""),
        ]

    def panels(self, group: str) -> list[Panel]:
        lines = [mean_curve(arm, self.curves[arm].values(), lambda p: p.tokens, gold) for arm in self.arms]
        frontier = [Line(arm, [p.kl for p in self.ends[arm].values()], [p.gold for p in self.ends[arm].values()],
                         points=True) for arm in self.arms]  # fmt: skip
        return [
            Panel(f"{group} responses", "policy tokens", "gold reward", [line for line in lines if line is not None]),
            Panel(f"{group} responses, at the end", "KL, nats per response", "gold reward", frontier),
        ]

    def difference(self, arm: str, read: Read, claimed: int) -> str:
        found = paired(self.end(arm, read), self.end("sparse", read))
        return f"{figure(found, sign=True)}, {verdict(found, claimed)}"

    def measured(self, arm: str, base: str) -> str:
        """Of gold, without a verdict: arms of five seeds."""
        ends, others = self.end(arm, gold), self.end(base, gold)
        return f"{figure(paired(ends, others), sign=True)} (n={len(ends.keys() & others.keys())})"

    def speed(self, arm: str, read: Read) -> str:
        """Median tokens to the level, as a share of sparse credit's own."""
        own, base = self.tokens_to_level(arm, read), self.tokens_to_level("sparse", read)
        known = [[v for v in values or () if v is not None] for values in (own, base)]
        if not all(known):
            return "not reached"
        return f"{statistics.median(known[0]) / statistics.median(known[1]):.2f} of sparse credit's tokens"


def claims(groups: dict[str, Measured]) -> list[str]:
    """A sentence each on what the runs say of the claims of the literature, whichever way they come out."""
    out = []
    for name, m in groups.items():
        if "sparse" not in m.arms:
            continue
        if "attention" in m.arms:
            sds = [statistics.stdev(m.end(arm, gold).values()) if len(m.end(arm, gold)) > 1 else float("nan")
                   for arm in ("attention", "sparse")]  # fmt: skip
            out.append(
                f"- ABC (arXiv 2402.00782), {name}: attention ends above sparse credit. Proxy "
                f"{m.difference('attention', proxy, 1)}; gold {m.difference('attention', gold, 1)}. 95% of the proxy's "
                f"rise: {m.speed('attention', proxy)} (ABC: 0.34). Deviation of gold over "
                f"seeds {sds[0]:.3f} against {sds[1]:.3f}."
            )
        if "uniform" in m.arms:
            out.append(
                f"- Uniform as control, {name}: below sparse credit{' on short responses' if name == 'short' else ''}. "
                f"Proxy {m.difference('uniform', proxy, -1)}; gold {m.difference('uniform', gold, -1)}."
            )
        if "implicit" in m.arms:
            out.append(
                f"- RTO (arXiv 2404.18922), {name}: a DPO policy's log-ratio saves samples (claimed at 8B: 1/8). 95% "
                f"of the proxy's rise: {m.speed('implicit', proxy)}; of gold's: {m.speed('implicit', gold)}. "
                f"Gold at the end {m.difference('implicit', gold, 1)}."
            )
        if {"prefix", "prefix_trained"} <= set(m.arms):
            out.append(
                f"- Potential-based shaping (Ng 1999; RED, arXiv 2411.08302), {name}, no verdict at so few seeds: gold "
                f"against sparse credit {m.measured('prefix', 'sparse')} with a reward model trained at the end of "
                f"responses only, {m.measured('prefix_trained', 'sparse')} with one trained on prefixes too."
            )
        if {"truth", "gold_sparse"} <= set(m.arms):
            out.append(
                f"- The upper bound, {name}, no verdict either: gold {m.measured('truth', 'gold_sparse')} where the "
                f"gold reward is paid to the tokens that earn it, against the same reward at the end of the response."
            )
    return out


def report(plan: Plan, found: list[Point]) -> tuple[str, list[Panel]]:
    names = [g.name for g in plan.groups if any(p.stage == "report" and p.group == g.name for p in found)]
    groups = {name: Measured(name, found) for name in names}
    lines = ["# Dense credit against sparse credit", "", "![gold reward over tokens, and against KL](credit.svg)", ""]
    for name, m in groups.items():
        lines += [f"## {name.capitalize()} responses", "", table(HEAD, [m.row(arm) for arm in m.arms])]
        lines += [f"Matched KL: {m.kl:.2f} nats per response, the smallest mean of an arm.", ""]
    lines += [
        f"{NOTE} gold - sparse's: paired by seed. k tokens to 95%: thousand policy tokens to 95% of the mean rise of",
        "sparse credit, median of the runs that get there. Fidelity: correlation of credit and true credit within a",
        "response, on the first rollout, the start model's. * scored by another reward than the others.",
        "",
        "## What this says about the claims",
        "",
        "Analogues at our own scale: neither the models nor the data are the papers'.",
        "",
        *claims(groups),
    ]
    return "\n".join(lines) + "\n", [panel for name, m in groups.items() for panel in m.panels(name)]


if __name__ == "__main__":
    sys.exit(conduct(PLAN, report))
