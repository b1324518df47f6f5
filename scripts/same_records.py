"""Hold a change of the code to the records before it: the same runs in two checkouts, compared figure by figure.

    git worktree add ../before REVISION
    python scripts/same_records.py ../before               # the five base lines, 20 updates each
    python scripts/same_records.py ../before --more        # and what they leave out: LoRA, bf16, epochs, adaptive KL

Exit code: 0 = every record and evaluation is equal but for times, throughput and memory; 1 = one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
REWARD = "align/worlds/assets/pocket/reward_models/evaluation"  # of the checkout before, for both
RUNS = {
    "ppo_dense": ["method=ppo", "reward=dense"],
    "ppo_sparse": ["method=ppo", "reward=sparse"],
    "grpo": ["method=grpo", "reward=sparse"],
    "dpo": ["method=dpo", "reward=sparse"],
    "sft": ["method=sft", "reward=sparse"],
}
MORE = {
    "ppo_lora": ["method=ppo", "reward=sparse", "adapter=lora"],
    "ppo_bf16": ["method=ppo", "reward=dense", "precision=bf16", "method.epochs=2", "method.target_kl=0.001"],
    "grpo_lora_bf16": ["method=grpo", "reward=sparse", "adapter=lora", "precision=bf16", "method.kl.place=reward"],
    "grpo_adaptive": ["method=grpo", "reward=dense", "method.kl.controller=adaptive"],
    "dpo_lora_bf16": ["method=dpo", "reward=sparse", "adapter=lora", "precision=bf16"],
    "sft_recomputed": ["method=sft", "reward=sparse", "model.gradient_checkpointing=true"],
    "best_of_n": ["method=best_of_n", "reward=sparse"],
}
SMALL = ["seed=0", "device=cpu", "threads=1", "evaluation.num_probes=2", "callbacks.progress.enabled=false"]


def run(tree: Path, words: list[str], folder: Path, reward: str, steps: int) -> None:
    """Run one command line with the package of `tree`."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    precision = [] if any(word.startswith("precision=") for word in words) else ["precision=fp32"]
    command = [sys.executable, "-m", "align", *words, *SMALL, *precision, f"max_steps={steps}"]
    command += [f"reward.source.path={reward}", f"hydra.run.dir={folder}"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{tree}: {' '.join(words)} failed: {done.stderr.strip().splitlines()[-1]}")


def figures(folder: Path) -> list[dict[str, Any]]:
    """Read the records of a run and its evaluation, without what no two runs share."""
    rows = [json.loads(line) for line in (folder / "log_history.jsonl").read_text().splitlines()]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    rows += [evaluation[side] for side in ("before", "after") if side in evaluation]
    return [
        {k: v for k, v in row.items() if not k.startswith(("seconds", "time/", "throughput/", "memory/"))}
        for row in rows
    ]


def difference(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str:
    """The first figure that differs, as text; empty where none does."""
    if len(before) != len(after):
        return f"{len(before)} and {len(after)} records"
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return f"record {i}, {key}: {old.get(key)} and {new.get(key)}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the code before")
    parser.add_argument("--more", action="store_true", help="also the runs that the five leave out")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    differing, before = 0, args.before.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        for name, words in (RUNS | (MORE if args.more else {})).items():
            folders = [Path(scratch) / side / name for side in ("before", "after")]
            for tree, folder in zip((before, HERE), folders, strict=True):
                run(tree, words, folder, str(before / REWARD), args.steps)
            found = difference(*map(figures, folders))
            differing += bool(found)
            print(f"{name:16} {found or 'equal'}", flush=True)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
