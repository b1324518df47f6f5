"""Steps of two checkouts of align beside each other, in turns: what a change of the code costs or gains.

    git worktree add ../before REVISION
    python scripts/bench/against_before.py ../before                       # GRPO, DPO, PPO with LoRA, 135M's dimensions
    python scripts/bench/against_before.py ../before --methods ppo --adapter none --shape tiny --turns 2

Whole runs of a few updates take turns, so that whatever else the machine does meets both. Minibatches are half of a
rollout, as no default's are the whole. A step is the time between two records, the first of a run left out. Printed is
the median step of each side, and the median over turns of (before / after): above 1 the change is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from shapes import SHAPES, random_model, random_reward, write_pairs

HERE = Path(__file__).resolve().parents[2]
SETTINGS = [
    "model=local", "data=jsonl", "reward/credit=sparse", "rollout.batch_size=16", "data.max_prompt_tokens=1024",
    "evaluation.num_prompts=1", "evaluation.num_pairs=1", "evaluation.num_texts=1", "evaluation.num_probes=0",
    "checkpoint.every_steps=0", "callbacks.progress.enabled=false",
]  # fmt: skip
METHODS = {
    "grpo": ["method=grpo", "method.group_size=4", "method.minibatch_size=8", "reward.source.normalise=none"],
    "ppo": ["method=ppo", "method.minibatch_size=8", "reward.source.normalise=none"],
    "dpo": ["method=dpo", "method.batch_size=8", "reward.source.normalise=none"],
}


def steps(tree: Path, words: list[str], folder: Path) -> list[float]:
    """Seconds of each step but the first of one run with the package of `tree`."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "align", *words, f"hydra.run.dir={folder}"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{tree}: {done.stderr.strip().splitlines()[-1]}")
    rows = [json.loads(line) for line in (folder / "log_history.jsonl").read_text().splitlines()]
    return [row["time/total"] for row in rows if row.get("step", 0) > 1 and "phase" not in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the code before")
    parser.add_argument("--methods", default="grpo,dpo,ppo")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="135m")
    parser.add_argument("--adapter", choices=("lora", "none"), default="lora")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5, help="updates of a run")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    trees = {"before": args.before.resolve(), "after": HERE}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        model = random_model(work / "model", SHAPES[args.shape])
        reward = random_reward(work / "reward", model, args.adapter)
        lengths = {"prompt_tokens": args.prompt_tokens, "response_tokens": args.new_tokens}
        pairs = write_pairs(work / "pairs.jsonl", model, count=64, **lengths)
        shared = [*SETTINGS, f"model.path={model}", f"data.path={pairs}", f"reward.source.path={reward}"]
        shared += [f"adapter={args.adapter}", f"precision={args.precision}", f"max_steps={args.steps}"]
        shared += [f"rollout.max_new_tokens={args.new_tokens}"]
        for method in args.methods.split(","):
            found: dict[str, list[float]] = {side: [] for side in trees}
            for turn in range(args.turns):
                for side, tree in trees.items():
                    folder = work / f"{method}-{side}-{turn}"
                    found[side].append(median(steps(tree, [*METHODS[method], *shared], folder)))
            ratios = [a / b for a, b in zip(found["before"], found["after"], strict=True)]
            medians = ", ".join(f"{side} {median(times):.2f} s" for side, times in found.items())
            spread = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            print(f"{method:5} {medians}, before / after {median(ratios):.3f} ({spread})", flush=True)


if __name__ == "__main__":
    main()
