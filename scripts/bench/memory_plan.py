"""Hold the estimate of a run's memory (align/run/memory_plan.py) to the peaks of whole runs on a CPU.

    python scripts/bench/memory_plan.py --model DIR --pairs FILE.jsonl --kept FOLDER
    python scripts/bench/memory_plan.py ... --out scripts/bench/results/memory_plan.md

Each shape is a run of two updates in a process of its own, which stays in FOLDER/SHAPE and is not repeated where it is
there: estimates are made anew from its configuration. Measured is `peak_memory_mib` of its run.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from align.config import io as configuration
from align.data.preferences import load_preferences
from align.models.hardware import torch_dtype
from align.models.load import load_chat_tokenizer, load_skeleton
from align.numbers import markdown_table
from align.run.memory_plan import MemoryPlan, plan_memory

PAIRS = ("method.batch_size=8",)
SAMPLED = ("rollout.batch_size=8", "method.minibatch_size=8", "reward=rules", "reward.source.word_limit.limit=50",
           "rollout.max_new_tokens=96")  # fmt: skip
GROUPS = (*SAMPLED, "method.group_size=4")
SHAPES = {
    "dpo_lora_fp32": PAIRS,
    "dpo_none_fp32": PAIRS,
    "dpo_lora_bf16_m512": (*PAIRS, "method.micro_batch_tokens=512"),
    "sft_lora_bf16": PAIRS,
    "sft_none_fp32": PAIRS,
    "ppo_lora_fp32": SAMPLED,
    "ppo_none_bf16": SAMPLED,
    "grpo_lora_bf16": GROUPS,
    "grpo_none_fp32": GROUPS,
}
WORDS = ("model=local", "data=jsonl", "device=cpu", "max_steps=2", "checkpoint.every_steps=0",
         "evaluation.num_prompts=2", "evaluation.num_pairs=2", "evaluation.num_texts=2", "evaluation.num_probes=0",
         "callbacks.progress.enabled=false")  # fmt: skip


def measured(name: str, folder: Path, args: argparse.Namespace) -> float:
    """MiB that the run of a shape took at its peak; the run is made where it is not there."""
    record = folder / "run.json"
    if not record.is_file():
        method, adapter, precision, *_ = name.split("_")
        words = [f"method={method}", f"adapter={adapter}", f"precision={precision}", f"model.path={args.model}"]
        words += [f"data.path={args.pairs}", f"hydra.run.dir={folder}", *WORDS, *SHAPES[name]]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "align", *words], check=True, env=environment)
    return float(json.loads(record.read_text())["peak_memory_mib"])


def estimated(folder: Path) -> MemoryPlan:
    """What is estimated now of a run that was made."""
    config = configuration.load(folder / "config.yaml")
    data = load_preferences(config.data, load_chat_tokenizer(config.model))
    model, dtype = load_skeleton(config.model), torch_dtype(config.precision)
    plan = plan_memory(config, model, data, device=torch.device("cpu"), dtype=dtype, left=None)
    assert plan is not None
    return plan


def row(name: str, args: argparse.Namespace) -> list[str]:
    """A line of the table."""
    folder = Path(args.kept) / name
    peak, plan = measured(name, folder, args), estimated(folder)
    turns = {"updates": sum(plan.updates.values()), "sampling": plan.sampling, "evaluation": plan.evaluation}
    parts = [sum(plan.weights.values()), *turns.values()]
    return [name, *(f"{part:.0f}" for part in parts), f"{plan.peak:.0f}", f"{peak:.0f}", f"{plan.peak / peak:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model's folder")
    parser.add_argument("--pairs", required=True, help="JSONL with prompt, chosen, rejected")
    parser.add_argument("--kept", required=True, help="where the runs stay")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="in place of all")
    parser.add_argument("--out", help="a Markdown file")
    args = parser.parse_args()
    head = ["method, adapter, precision", "weights", "updates", "or sampling", "or evaluation", "estimate", "measured"]
    table = markdown_table([*head, "ratio"], [row(name, args) for name in args.shape or SHAPES])
    lines = [f"`python {shlex.join(sys.argv)}`; MiB.", "", *table]
    print("\n".join(lines))
    if args.out:
        Path(args.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
