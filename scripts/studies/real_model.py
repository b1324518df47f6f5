"""Every method on a pretrained model and people's preferences, at the shipped defaults: what each does in 30 updates.

    python ../shared/tools/smollm2.py MODEL_DIR         # or any folder of a chat model, with --model-name
    python examples/qa_feedback.py dev_feedback.json PAIRS
    python scripts/studies/real_model.py --model MODEL_DIR --pairs PAIRS [--seeds 3] [--only ...]

Nothing is given but model, data, number of updates and seed, so that the table shows what a user gets at the first
attempt; and bf16, which is what `precision=auto` is on a GPU: in fp32 two CPU cores would need days. Held-out pairs are
of other questions than training's, and intervals resample questions, because the pairs of one question are correlated.
The held-out questions are the same for every seed: a mean over seeds has the seeds' mean interval, no narrower one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from output import table
from real import Job, parser, read, run_jobs

from align.files import write_atomic

ARMS = {
    "sft": ("method=sft",),
    "dpo": ("method=dpo",),
    "trl_dpo": ("method=trl_dpo",),
    "ppo_sparse": ("method=ppo", "reward=sparse"),
    "ppo_dense": ("method=ppo", "reward=dense"),
    "grpo": ("method=grpo", "reward=sparse"),
    "best_of_n": ("method=best_of_n", "reward=sparse"),
}
STEPS = 30
OBJECTIVES = {"sft": "chosen", "dpo": "accuracy", "trl_dpo": "accuracy"}  # of others the reward
MOST = {"general": 3.0, "kl": 10.0, "chosen": 5.0}  # percent, nats, percent: beyond, an arm did harm
WEIGHTS = {"lora": (), "none": ("adapter=none",)}


def jobs(args: Any) -> Iterator[Job]:
    """List the study's runs, seed after seed, so that one that was stopped has every arm."""
    for seed in range(args.seeds):
        for arm, words in ARMS.items():
            labels = (("model", args.model_name), ("weights", args.weights), ("arm", arm), ("seed", seed))
            common = ("model=local", "data=jsonl", "precision=bf16", f"max_steps={STEPS}", f"seed={seed}")
            yield Job(
                labels,
                (*words, *common, *WEIGHTS[args.weights]),
                (f"model.path={args.model}", f"data.path={args.pairs}"),
            )


HEAD = ["arm", "seeds", "on its own objective", "perplexity of chosen", "general text", "KL, nats",
        "held-out accuracy", "reward", "length", "cut", "training, min", "evaluation, min", "memory, GiB",
        "verdicts"]  # fmt: skip


def row(arm: str, points: list[dict[str, Any]]) -> list[str]:
    """One arm as a row of the table: means over seeds, intervals the means of the seeds' bounds."""
    ended = [p for p in points if "after" in p]
    if not ended:
        return [arm, "0", points[0]["status"], *["-"] * (len(HEAD) - 3)]
    reported = {verdict["what"] for p in points for verdict in p.get("verdicts") or []}
    spent = [p["spent"] for p in ended]
    minutes = [sum(s.get(part, 0.0) for part in ("evaluate_before", "evaluate_after")) / 60 for s in spent]
    return [
        arm,
        str(len(ended)),
        objective(arm, ended),
        percent(ended, "chosen"),
        percent(ended, "general"),
        between(ended, "kl", 2),
        between(ended, "accuracy", 3),
        moved(ended, "proxy", 2),
        moved(ended, "length", 0),
        moved(ended, "cut", 2),
        f"{mean(s.get('train', 0.0) for s in spent) / 60:.1f}",
        f"{mean(minutes):.1f}",
        f"{mean(p['memory_mib'] for p in ended) / 1024:.1f}",
        "; ".join(sorted(reported)) or "none",
    ]


def objective(arm: str, points: list[dict[str, Any]]) -> str:
    """Say whether an arm did better than its start at what it trains for: yes, no, or not shown."""
    kind = OBJECTIVES.get(arm, "proxy")
    if kind == "accuracy":
        low, high = (mean(p["after"][f"accuracy_{end}"] for p in points) for end in ("low", "high"))
        return told(low - 0.5, high - 0.5)
    deltas = [p.get("delta", {}) for p in points]
    if any(f"{kind}_low" not in delta for delta in deltas):
        return "-"
    low, high = (mean(delta[f"{kind}_{end}"] for delta in deltas) for end in ("low", "high"))
    return told(-high, -low) if kind == "chosen" else told(low, high)


def told(low: float, high: float) -> str:
    """Put an interval of a rise into a word."""
    return "better" if low > 0 else "worse" if high < 0 else "not shown"


def percent(points: list[dict[str, Any]], name: str) -> str:
    """Mean change of a figure."""
    return f"{mean(100 * (p['after'][name] / p['before'][name] - 1) for p in points):+.1f}%"


def between(points: list[dict[str, Any]], name: str, digits: int) -> str:
    """A figure after training, with its interval."""
    known = [p["after"] for p in points if f"{name}_low" in p["after"]]
    if not known:
        return "-"
    value, low, high = (mean(after[key] for after in known) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def moved(points: list[dict[str, Any]], name: str, digits: int) -> str:
    """A figure before and after."""
    known = [p for p in points if name in p["before"] and name in p["after"]]
    if not known:
        return "-"
    return " → ".join(f"{mean(p[phase][name] for p in known):.{digits}f}" for phase in ("before", "after"))


def report(points: list[dict[str, Any]]) -> str:
    """Write the tables in Markdown, one for each model and kind of trained weights."""
    lines = ["# Every method on a pretrained model", "", (__doc__ or "").strip(), ""]
    for model in sorted({p["model"] for p in points}):
        for weights in WEIGHTS:
            own = [p for p in points if (p["model"], p["weights"]) == (model, weights)]
            by_arm = {arm: [p for p in own if p["arm"] == arm] for arm in ARMS}
            if own:
                lines += [f"## {model}, {'LoRA' if weights == 'lora' else 'all weights'}", ""]
                lines += [table(HEAD, [row(arm, found) for arm, found in by_arm.items() if found]), ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    options = parser("Run every method on a pretrained model at the shipped defaults.", "real_model")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--weights", choices=list(WEIGHTS), default="lora", help="LoRA is the default of a real model")
    given = options.parse_args()
    if not given.report_only and not (given.model and given.pairs):
        options.error("--model and --pairs are needed for runs")
    target: Path = given.out / "real_model.jsonl"
    if not given.report_only:
        run_jobs(list(jobs(given)), target, given)
    text = report(read(target))
    write_atomic(given.out / "real_model.md", text)
    print(json.dumps({"points": len(read(target))}))
    sys.exit(0)
