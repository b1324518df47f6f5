"""What this machine could do at best: measured memory bandwidth and matrix rate, and the work of a step under them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def measure(dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """Bytes a second of reading, and FLOP a second of a large product in `dtype`; the best of a few trials."""
    big = torch.ones(2**27 if device == "cpu" else 2**30, device=device)
    read = big.nbytes / _best(big.sum, device)
    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    rate = 2 * n**3 / _best(lambda: a @ b, device)
    return {"bytes_per_second": read, "flop_per_second": rate}


def require(device: str) -> None:
    """End here, before anything slow, where --device is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device: given cuda; allowed on this machine, which has no GPU: cpu")


def settled(device: str) -> None:
    """Wait for all that a GPU has been given."""
    if device == "cuda":
        torch.cuda.synchronize()


def _best(work: Callable[[], object], device: str, trials: int = 5) -> float:
    seconds = []
    for _ in range(trials):
        settled(device)
        started = time.perf_counter()
        work()
        settled(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def ideal_seconds(args: Any, shape: dict[str, Any], machine: dict[str, float]) -> float:
    """A step's time if every product ran at the measured rate and decoding waited for memory or products alone.

    Prompts are counted once per group or pair and the head at response positions only; attention scores, norms,
    sampling and the optimizer are free. So nothing can reach it, and it is the same for both sides.
    """
    d, ffn = shape["hidden_size"], shape["intermediate_size"]
    kv = d * shape["num_key_value_heads"] // shape["num_attention_heads"]
    body = shape["num_hidden_layers"] * (2 * d * d + 2 * d * kv + 3 * d * ffn)
    head = d * shape["vocab_size"]
    prompts = args.rows // {"grpo": args.group, "dpo": 2, "ppo": 1}[args.method]
    responses = args.rows * args.new_tokens
    forward = 2 * body * (prompts * args.prompt_tokens + responses) + 2 * head * responses
    backward = forward * (2 if args.adapter == "none" else 1)  # a frozen base needs no gradient of its weights
    work = 2 * forward + backward  # the policy's forward and backward, the reference's forward
    if args.method == "ppo":  # the critic's forward and backward, the reward model's forward: bodies without a head
        critic = 2 * body * (prompts * args.prompt_tokens + responses)
        work += critic + critic * (2 if args.adapter == "none" else 1) + critic
    seconds = work / machine["flop_per_second"]
    if args.method != "dpo":
        weights = (body + head) * (4 if args.precision == "fp32" else 2)
        step = max(weights / machine["bytes_per_second"], 2 * (body + head) * args.rows / machine["flop_per_second"])
        seconds += args.new_tokens * step + 2 * body * prompts * args.prompt_tokens / machine["flop_per_second"]
    return seconds
