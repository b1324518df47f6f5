"""What four roles on one frozen base cost: PPO with LoRA beside its base model and one micro-batch alone.

    python scripts/bench/memory.py                     # SmolLM2-135M's dimensions, random weights, bf16
    python scripts/bench/memory.py --precision fp32 --micro-batch-tokens 2048
    python scripts/bench/memory.py --tiny

Both are the peak of a process's resident size less its size after imports. `alone` loads the base, puts an adapter on
it, and takes a micro-batch forward and backward; `ppo` is a whole run with policy, reference, critic and reward model,
the copy that it samples from included. The reward model is trained before, in a process of its own.
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

from shapes import SHAPE, TINY, lora_policy, random_model, write_pairs
from sides import resident_mib

WORDS = ("adapter=lora", "model=local", "data=jsonl", "device=cpu", "data.max_prompt_tokens=1024", "max_steps=2",
         "checkpoint.every_steps=0", "evaluation.num_prompts=2", "evaluation.num_pairs=2", "evaluation.num_texts=2",
         "evaluation.num_probes=0")  # fmt: skip


def words(args: argparse.Namespace, *own: str) -> list[str]:
    given = [f"model.path={args.model}", f"data.path={args.pairs}", f"precision={args.precision}"]
    return [*WORDS, *given, *own]


def align(args: argparse.Namespace, *own: str) -> float:
    """A whole run in this process; its peak above the imports, MiB."""
    import torch

    from align.algorithms import ppo, reward_model  # noqa: F401  what a run imports is not its own
    from align.cli.compose import composed
    from align.models.hardware import peak_memory_mib
    from align.run import runner

    imported = resident_mib()
    with tempfile.TemporaryDirectory() as folder:
        runner.run(composed(words(args, *own)), Path(args.kept or folder) / "run")
    return peak_memory_mib(torch.device("cpu")) - imported


def alone(args: argparse.Namespace) -> float:
    """The base, one adapter, one micro-batch's forward and backward; the peak above the imports, MiB."""
    import torch

    from align.algorithms import ppo, reward_model  # noqa: F401  the same imports
    from align.config import ModelConfig, Precision
    from align.engine.fast.pages import pages_kept
    from align.models.hardware import peak_memory_mib, torch_dtype
    from align.models.load import load_causal_lm
    from align.run import runner  # noqa: F401
    from align.types import Sequences

    imported = resident_mib()
    with pages_kept(torch.device("cpu")):  # as a run does
        dtype = torch_dtype(Precision(args.precision))
        model = load_causal_lm(ModelConfig(path=args.model), dtype=dtype, device=torch.device("cpu"))
        rows = max(1, args.micro_batch_tokens // (args.prompt_tokens + args.new_tokens))
        prompts, responses = (torch.randint(4, 500, (rows, n)) for n in (args.prompt_tokens, args.new_tokens))
        batch = Sequences(prompts, torch.ones_like(prompts), responses, torch.ones_like(responses))
        lora_policy(model, dtype)(batch, 1.0).logprobs.sum().backward()
        return peak_memory_mib(torch.device("cpu")) - imported


def train_reward(args: argparse.Namespace) -> float:
    return align(args, "method=reward_model", "reward.source.batch_size=4", "reward.source.epochs=1")


def train_policy(args: argparse.Namespace) -> float:
    reward = Path(args.kept) / "run" / "model"
    args.kept = None
    own = ["method=ppo", "reward=sparse", f"reward.source.path={reward}", f"rollout.batch_size={args.rows}"]
    own += [f"method.minibatch_size={args.rows}", f"rollout.max_new_tokens={args.new_tokens}"]
    own += [f"method.micro_batch_tokens={args.micro_batch_tokens}", "reward.source.reference_responses=8"]
    return align(args, *own)


PARTS = {"alone": alone, "reward": train_reward, "ppo": train_policy}


def measured(part: str, args: argparse.Namespace, **more: Any) -> float:
    """`part` in a process of its own."""
    given = json.dumps(vars(args) | more)
    environment = os.environ | {"ALIGN_HOME": f"{args.model}_home"}  # what is trained here is for no other run
    command = [sys.executable, __file__, "--part", part, given]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return float(done.stdout.split()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        print(PARTS[sys.argv[2]](argparse.Namespace(**json.loads(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--micro-batch-tokens", type=int, default=1024)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16, help="responses of a rollout and of an update")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape in place of 135M")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="align-bench-") as scratch:
        shape = TINY if args.tiny else SHAPE
        args.model, args.kept = str(random_model(Path(scratch) / "model", shape)), None
        lengths = {"prompt_tokens": args.prompt_tokens, "response_tokens": args.new_tokens}
        args.pairs = str(write_pairs(Path(scratch) / "pairs.jsonl", Path(args.model), count=40, **lengths))
        measured("reward", args, kept=scratch)
        base, run = measured("alone", args), measured("ppo", args, kept=scratch)
    print(f"base, adapter and a micro-batch of {args.micro_batch_tokens} tokens: {base:.0f} MiB")
    print(f"PPO, four roles: {run:.0f} MiB, {run / base:.2f}x")


if __name__ == "__main__":
    main()
