"""Learning rates of pretrained models: what each does to the model in 30 updates, by method and trained weights.

    python ../shared/tools/smollm2.py MODEL_DIR         # or any folder of a chat model, with --model-name
    python examples/qa_feedback.py dev_feedback.json PAIRS
    python scripts/studies/rates.py --model MODEL_DIR --pairs PAIRS [--reward-model DIR] [--only dpo sft]

Updates are small (8 pairs, 16 responses) and in bf16, so that a laptop makes the sweep: smaller batches have noisier
gradients, and Adam's updates are as large, so that the harm is no less than at the defaults. Reward models are trained
on 480 pairs and measured on 128 of 23 questions, which tell nothing within 0.2 of chance; theirs is the held-out
accuracy. align/config/automatic.py takes SFT's and DPO's rates from here; others are published.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from output import table
from real import Job, parser, read, run_jobs

from align.files import write_atomic

STEPS = 30
FACTORS = (0.2, 1.0, 4.0, 20.0)  # times the published rule
BETWEEN = {"sft": (0.5,)}
PUBLISHED = {"sft": 2e-5, "dpo": 5e-6, "ppo": 5e-6, "grpo": 5e-6, "reward_model": 1e-5}  # all weights; LoRA: 10 times
LORA = 10.0
BATCHES = {
    "sft": ("method.batch_size=8",),
    "dpo": ("method.batch_size=8",),
    "ppo": ("method.minibatch_size=16", "rollout.batch_size=32", "reward/credit=sparse"),
    "grpo": ("method.minibatch_size=16", "rollout.batch_size=32"),
    "reward_model": ("reward=sparse", "reward.source.batch_size=8", "reward.source.epochs=1"),
}
COMMON = ("precision=bf16", "rollout.max_new_tokens=96", "evaluation.num_prompts=32", "evaluation.num_pairs=128",
          "evaluation.num_texts=42", "evaluation.num_probes=0")  # fmt: skip
FEW, HELD_FEW = 480, 128  # pairs of a reward model, and pairs that measure one


def jobs(args: Any, pairs: dict[str, Path]) -> Iterator[Job]:
    """List the sweep's runs."""
    for method, rate in PUBLISHED.items():
        if method in ("ppo", "grpo") and args.reward_model is None and not args.report_only:
            continue
        for weights in ("lora", "none"):
            for factor in sorted((*FACTORS, *BETWEEN.get(method, ()))):
                value = float(f"{rate * factor * (LORA if weights == 'lora' else 1.0):.3g}")
                yield job(args, pairs, method, weights, value)


def job(args: Any, pairs: dict[str, Path], method: str, weights: str, rate: float) -> Job:
    """One rate of one method."""
    owner = "reward.source" if method == "reward_model" else "method"
    words = (f"method={method}", "model=local", f"adapter={weights}", "data=jsonl", f"max_steps={STEPS}", *COMMON)
    words += (*BATCHES[method], f"{owner}.learning_rate={rate:g}")
    train, held = ("few", "held_few") if method == "reward_model" else ("train", "held_out")
    places = (f"model.path={args.model}", f"data.path={pairs[train]}", f"data.held_out_path={pairs[held]}")
    if method in ("ppo", "grpo"):
        words += ("reward=sparse", "reward.source.allow_chance=true")
        places += (f"reward.source.path={args.reward_model}",)
    labels = (("model", args.model_name), ("method", method), ("weights", weights), ("rate", rate))
    return Job(labels, words, places)


def split(source: Path, folder: Path) -> dict[str, Path]:
    """Write the pairs as training and held-out files, every tenth question held out, and the first few of training."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    questions = sorted({row["prompt"] for row in rows})
    held = set(questions[::10])
    train = [row for row in rows if row["prompt"] not in held]
    order = {prompt: (index * 7919) % len(questions) for index, prompt in enumerate(questions)}  # few of many questions
    few = sorted(train, key=lambda row: order[row["prompt"]])[:FEW]
    held_out = [row for row in rows if row["prompt"] in held]
    parts = {"train": train, "few": few, "held_out": held_out, "held_few": held_out[:HELD_FEW]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        write_atomic(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in part))
    return {name: folder / f"{name}.jsonl" for name in parts}


HEAD = ["model", "method", "weights", "rate", "perplexity of chosen", "general text", "KL, nats", "margin, nats",
        "held-out accuracy", "reward", "length"]  # fmt: skip


def row(point: dict[str, Any]) -> list[str]:
    """One point as a row of the table."""
    names = [str(point[key]) for key in ("model", "method", "weights")]
    names[2] = {"lora": "LoRA", "none": "all"}[names[2]]
    trained = ((point.get("reward_model") or {}).get("held_out") or {}).get("accuracy")
    if point["method"] == "reward_model" and trained is not None:  # the policy stays as it was
        return [*names, f"{point['rate']:g}", "-", "-", "-", "-", f"{trained:.3f}", "-", "-"]
    if "after" not in point:
        return [*names, f"{point['rate']:g}", "-", "-", "-", "-", "-", point["status"][:40], "-"]
    before, after = point["before"], point["after"]

    def change(name: str) -> str:
        return f"{100 * (after[name] / before[name] - 1):+.1f}%"

    def moved(name: str, digits: int) -> str:
        return f"{before[name]:.{digits}f} → {after[name]:.{digits}f}" if name in after and name in before else "-"

    accuracy = f"{after['accuracy']:.3f}" if "accuracy" in after else "-"
    return [*names, f"{point['rate']:g}", change("chosen"), change("general"), f"{after['kl']:.2f}",
            f"{after['margin']:+.2f}", accuracy, moved("proxy", 2), moved("length", 0)]  # fmt: skip


def report(points: list[dict[str, Any]]) -> str:
    """Write the table in Markdown."""
    order = sorted(points, key=lambda p: (p["model"], p["method"], p["weights"], p["rate"]))
    lines = ["# Learning rates of pretrained models", "", (__doc__ or "").strip(), "", table(HEAD, map(row, order))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    options = parser("Sweep learning rates on a pretrained model.", "rates")
    options.add_argument("--reward-model", type=Path, help="folder of a reward model, which ppo and grpo need")
    given = options.parse_args()
    if not given.report_only and not (given.model and given.pairs):
        options.error("--model and --pairs are needed for runs")
    target = given.out / "rates.jsonl"
    if not given.report_only:
        run_jobs(list(jobs(given, split(given.pairs, given.runs))), target, given)
    text = report(read(target))
    write_atomic(given.out / "rates.md", text)
    print(text)
    sys.exit(0)
