"""What a GRPO step costs as prompts, responses and groups grow: align beside TRL.

    python scripts/bench/curves.py --precision bf16            # six layers of SmolLM2-135M's width, LoRA, 16 responses
    python scripts/bench/curves.py --tiny

Around prompts of 64 tokens, 64 new ones and groups of 4 one of the three is changed at a time; groups are compared
behind prompts of 256. Both sides take turns, as in against_trl.py, with TRL under one setting. Few layers keep the run
short; the vocabulary, and so the head's share, is the whole one. TRL reads as many rows at once as hold align's default
of tokens, so that neither side's memory is that of larger micro-batches.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from against_trl import HERE, compare, prepare
from shapes import SHAPE, TINY

BASE = {"prompt_tokens": 64, "new_tokens": 64, "group": 4}
CURVES: dict[str, list[dict[str, int]]] = {
    "prompt tokens": [BASE | {"prompt_tokens": n} for n in (64, 128, 256, 512)],
    "new tokens": [BASE | {"new_tokens": n} for n in (32, 64, 128, 256)],
    "responses a group, prompts of 256": [BASE | {"prompt_tokens": 256, "group": n} for n in (2, 4, 8, 16)],
}


def point(args: argparse.Namespace, shape: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    """Medians of both sides at one place."""
    rows, tokens = args.rows, place["prompt_tokens"] + place["new_tokens"]
    while rows > 1 and rows * tokens > args.micro_batch_tokens:
        rows //= 2
    given = argparse.Namespace(**vars(args) | place | {"trl": args.trl.format(rows=rows)})
    with tempfile.TemporaryDirectory() as scratch:
        prepare(given, shape, Path(scratch))
        found = compare(given)
    return place | {side: {key: found[side][key] for key in ("seconds", "peak_mib")} for side in ("align", "trl")}


def row(found: dict[str, Any], varied: str) -> str:
    ours, theirs = found["align"], found["trl"]
    figures = [f"{ours['seconds']:.2f}", f"{theirs['seconds']:.2f}", f"{theirs['seconds'] / ours['seconds']:.2f}x"]
    memory = [f"{ours['peak_mib']:.0f}", f"{theirs['peak_mib']:.0f}", f"{ours['peak_mib'] / theirs['peak_mib']:.2f}x"]
    return f"| {found[varied]} | {' | '.join(figures + memory)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", choices=["none", "lora"], default="lora")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16, help="responses of a step")
    parser.add_argument("--steps", type=int, default=4, help="the first is a warm-up")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048, help="of both sides; align's default at 135M")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="TRL's")
    parser.set_defaults(device="cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape")
    args = parser.parse_args()
    args.method, args.trl_python = "grpo", None
    stored = "/bf16" if args.adapter == "lora" and args.precision == "bf16" else ""
    args.trl = f"{args.attention}/{{rows}}{stored}"
    shape = TINY if args.tiny else SHAPE | {"num_hidden_layers": args.layers}
    command = f"OMP_NUM_THREADS={torch.get_num_threads()} python scripts/bench/curves.py {' '.join(sys.argv[1:])}"
    done: dict[str, dict[str, Any]] = {}  # a place that two curves share is measured once
    text, head = f"`{command.strip()}`\n", "| align, s | TRL, s | faster | align, MiB | TRL, MiB | memory |"
    for name, places in CURVES.items():
        varied = next(key for key in BASE if len({place[key] for place in places}) > 1)
        text += f"\n| {name} {head}\n|{' --- |' * 7}\n"
        for place in places:
            key = json.dumps(place)
            done[key] = done.get(key) or point(args, shape, place)
            text += row(done[key], varied) + "\n"
    print(text)
    if not args.tiny:
        file = HERE / "results" / f"curves_grpo_{args.adapter}_{args.precision}_{args.layers}_layers"
        Path(f"{file}.md").write_text(text)
        Path(f"{file}.json").write_text(
            json.dumps({"command": command, "points": list(done.values())}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
