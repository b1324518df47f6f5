"""Sampling on a GPU: each kernel launched, a captured step replayed, and that step with layers of our own.

    python scripts/bench/graphs.py                                      # SmolLM2-135M's and 1.7B's shapes, bf16, LoRA
    python scripts/bench/graphs.py --precision fp16 --shapes 135m
    python scripts/bench/graphs.py --shapes tiny --device cpu           # to see that it works: nothing is captured

Each line is a whole call of `sample`, its copy of the weights and the capture included, the median of --trials after a
warm-up of four tokens. The limit is reading the weights once a token at the measured bandwidth. `gap` is the mean
distance, in nats, of sampling's log-probabilities from those of a pass over whole responses, as training takes it.
Memory is the peak of what torch has allocated. Then a forward and backward pass of all rows at once, each prompt read
once for its group (a pass more) or with every row.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from against_trl import DTYPES
from limits import measure, require, settled
from shapes import SHAPES, lora_policy
from transformers import AutoModelForCausalLM, LlamaConfig

from align.engine.engine import Engine
from align.engine.fast import decoding
from align.engine.fast.limits import Limits
from align.engine.reference import Policy
from align.engine.sampling import Noise, sample
from align.models.chat_tokenizer import ChatTokenizer
from align.models.hardware import peak_memory_mib
from align.types import Prompt, Rollout, Sequences

PLACES = ((64, 64, 16, 4), (512, 64, 16, 8), (64, 256, 16, 4), (64, 64, 256, 4))  # prompt, new tokens, rows, group
ENDS_NEVER = -1  # no such token
OURS = decoding._LAYERS  # none of them: transformers' layers while sampling, too
WAYS = {"launched": ({}, False), "captured": ({}, True), "captured, own layers": (OURS, True)}


def policy_of(shape: dict[str, Any], dtype: torch.dtype, args: argparse.Namespace) -> Policy:
    torch.manual_seed(0)
    with torch.device(args.device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), attn_implementation="sdpa").eval()
    if args.adapter == "none":
        return Engine().policy(model, dtype)
    policy = lora_policy(model.to(dtype), dtype)
    with torch.no_grad():
        for name, parameter in policy.trained_parameters().items():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    return policy


def timed(policy: Policy, place: tuple[int, int, int, int], args: argparse.Namespace, graphs: bool) -> dict[str, float]:
    prompt_tokens, new_tokens, rows, group = place
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 1000, (rows // group, prompt_tokens), generator=generator).tolist()
    prompts = [Prompt(i, (), "", tuple(row), {}) for i, row in enumerate(ids)]
    chat = mock.Mock(spec=ChatTokenizer, pad_id=0, end_ids=(ENDS_NEVER,))
    seconds: list[float] = []
    if args.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for trial in range(args.trials + 1 if graphs else 2):  # where each kernel is launched, seconds of them: one trial
        settled(args.device)
        started = time.perf_counter()
        found = sample(
            policy,
            chat,
            prompts,
            noise=Noise(0, "bench", trial),
            max_new_tokens=new_tokens if trial else 4,
            temperature=1.0,
            samples_per_prompt=group,
            cuda_graphs=graphs,
        )
        settled(args.device)
        seconds.append(time.perf_counter() - started)
    peak = peak_memory_mib(torch.device(args.device))
    return {"seconds": median(seconds[1:]), "mib": peak, "gap": gap(policy, found)}


def gap(policy: Policy, found: Rollout) -> float:
    some = found.rows(torch.arange(min(8, len(found)), device=policy.device))
    with torch.no_grad():
        return float((policy.response_logprobs(some, 1.0) - some.sampling_logprobs).abs().mean())


def passes(policy: Policy, place: tuple[int, int, int, int], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Forward and backward of all rows at once, each prompt read once or with every row: seconds and peak MiB."""
    prompt_tokens, new_tokens, rows, group = place
    prompts = torch.randint(10, 1000, (rows // group, prompt_tokens), device=args.device).repeat_interleave(group, 0)
    responses = torch.randint(10, 1000, (rows, new_tokens), device=args.device)
    batch = Sequences(prompts, torch.ones_like(prompts), responses, torch.ones_like(responses))
    found = {}
    for name, shortest in (("once", 0), ("every row", prompt_tokens + 1)):
        with mock.patch.object(policy, "limits", Limits(shared_from=shortest, shared_from_on_gpu=shortest)):
            seconds = []
            for _ in range(args.trials + 1):
                if args.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                settled(args.device)
                started = time.perf_counter()
                policy(batch, 1.0).logprobs.sum().backward()
                settled(args.device)
                seconds.append(time.perf_counter() - started)
                policy.zero_grad()
        found[name] = {"seconds": median(seconds[1:]), "mib": peak_memory_mib(torch.device(args.device))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="135m,1.7b", help=f"comma-separated, of {', '.join(SHAPES)}")
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    parser.add_argument("--adapter", choices=["none", "lora"], default="lora")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--results", default=str(Path(__file__).parent / "results"), help="folder to write to")
    args = parser.parse_args()
    require(args.device)
    dtype = DTYPES[args.precision]
    bandwidth = measure(dtype, args.device)["bytes_per_second"]
    card = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    command = f"python scripts/bench/graphs.py {' '.join(sys.argv[1:])}".strip()
    text = f"`{command}`, on one {card}, {bandwidth / 1e12:.2f} TB/s\n"
    points: list[dict[str, Any]] = []
    for name in args.shapes.split(","):
        policy = policy_of(SHAPES[name], dtype, args)
        weights = {
            n: p.numel() for n, p in policy.model.named_parameters() if "lora_" not in n and n != "lm_head.weight"
        }
        limit = sum(weights.values()) * dtype.itemsize / bandwidth
        text += f"\n| {name}: prompt + new tokens, rows, group | way | s | ms a token | of the limit | MiB | gap |\n"
        text += "| --- | --- | --- | --- | --- | --- | --- |\n"
        for place, (way, (layers, graphs)) in product(PLACES, WAYS.items()):
            if way == "launched" and place != PLACES[0]:
                continue  # takes most of the time, and the more tokens, the more
            with mock.patch.object(decoding, "_LAYERS", layers):
                found = timed(policy, place, args, graphs)
            points.append({"shape": name, "place": place, "way": way, "limit": limit, **found})
            each = found["seconds"] / place[1]
            figures = f"{found['seconds']:.3f} | {1000 * each:.2f} | {limit / each:.0%} | {found['mib']:.0f}"
            text += f"| {_named(place)} | {way} | {figures} | {found['gap']:.4f} |\n"
            print(text.splitlines()[-1], file=sys.stderr)
        text += f"\n| {name}: forward and backward | prompts read | s | MiB |\n| --- | --- | --- | --- |\n"
        for place in PLACES[:2]:
            for way, found in passes(policy, place, args).items():
                points.append({"shape": name, "place": place, "prompts read": way, **found})
                text += f"| {_named(place)} | {way} | {found['seconds']:.3f} | {found['mib']:.0f} |\n"
                print(text.splitlines()[-1], file=sys.stderr)
        del policy
        if args.device == "cuda":
            torch.cuda.empty_cache()
            file = f"{args.results}/graphs_{args.adapter}_{args.precision}"
            Path(f"{file}.md").write_text(text)
            facts = {"command": command, "card": card, "torch": torch.__version__, "points": points}
            Path(f"{file}.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(text)


def _named(place: tuple[int, int, int, int]) -> str:
    return f"{place[0]} + {place[1]}, {place[2]}, {place[3]}"


if __name__ == "__main__":
    main()
