"""What techniques of reading and sampling gain on this machine: seconds with and without, at SmolLM2-135M's width.

    OMP_NUM_THREADS=1 python scripts/bench/techniques.py            # 6 layers, a vocabulary of 8192; about two minutes
    OMP_NUM_THREADS=2 python scripts/bench/techniques.py --packed   # one of the sets below

OMP_NUM_THREADS sets the threads; the figures in scripts/bench/results are of those that --help says.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from statistics import median
from unittest import mock

import torch
from peft.tuners.lora import Linear
from shapes import SHAPE, lora_policy
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from align.engine import reference
from align.engine.draws import inverse_cdf
from align.engine.engine import Engine
from align.engine.fast import decoding, packed_rows, prepacked, roomy_cache, shared_prompts
from align.engine.fast.fused_lora import FusedLoraLinear
from align.engine.fast.grouped_attention import grouped_attention
from align.engine.fast.limits import Limits
from align.engine.fast.packed_rows import ATTENTION
from align.engine.fast.policy import FastPolicy
from align.engine.reference import Policy
from align.functional.logprobs import token_logprobs
from align.types import Sequences

ROWS, NEW, BF16 = 16, 64, torch.bfloat16
TURNS = f"{{}} threads, bf16, {ROWS} rows; seconds, medians of five in turns"
LADDER = (  # name, attention, layout and layers of our own
    ("weights rounded once", False, False, False),
    ("heads together", True, False, False),
    ("oneDNN's layout", True, True, False),
    ("layers of our own", True, True, True),
)


def rows(prompt: int, group: int) -> Sequences:
    ids = torch.randint(8192, (ROWS // group, prompt)).repeat_interleave(group, 0)
    responses = torch.randint(8192, (ROWS, NEW))
    return Sequences(ids, torch.ones_like(ids), responses, torch.ones_like(responses))


def seconds(work: Callable[[], object], trials: int = 2) -> float:
    """The best of a few trials, a warm-up before them."""
    found = []
    for _ in range(trials + 1):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found[1:])


def train(policy: Policy, batch: Sequences) -> None:
    policy(batch, 1.0).logprobs.sum().backward()


@torch.no_grad()
def decode(policy: Policy, batch: Sequences, tokens: int, group: int = 1) -> None:
    policy = policy.for_sampling()
    attention = batch.prompt_mask
    _, held = policy.prefill(batch.prompt_ids[::group], attention[::group])
    held.batch_repeat_interleave(group)
    for t in range(tokens):
        attention = torch.cat([attention, attention.new_ones(ROWS, 1)], dim=1)
        policy.decode(batch.response_ids[:, t], attention, held)


def head(logprobs: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor, ids: Tensor) -> None:
    """Logits, log-probabilities and their backward."""
    given = hidden.clone().requires_grad_()
    logprobs(nn.functional.linear(given, weight), ids).sum().backward()


def plain_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def in_bf16() -> None:
    """Decoding as it would be without any of it, with one technique after the other, and with all."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE | {"num_hidden_layers": 6})).eval()
    policy, plain = Engine().policy(model, BF16), Policy(model, BF16)
    print(f"{torch.get_num_threads()} threads, bf16, {ROWS} rows, {NEW // 4} tokens behind prompts; seconds")
    for prompt in (64, 512):
        batch, found = rows(prompt, 1), {}
        policy.model.set_attn_implementation("sdpa")
        found["as it would be"] = seconds(lambda b=batch: decode(plain, b, NEW // 4))
        for name, heads, layout, own in LADDER:
            policy.model.set_attn_implementation(ATTENTION if heads else "sdpa")
            with (
                mock.patch.object(prepacked, "why_not", lambda *_, on=layout: None if on else "off"),
                nullcontext() if own else mock.patch.object(decoding, "why_not", return_value="off"),
            ):
                found[f"+ {name}"] = seconds(lambda b=batch: decode(policy, b, NEW // 4))
        print(f"prompts of {prompt}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    stored, batch = FastPolicy(policy.model.to(BF16).requires_grad_(False), BF16), rows(64, 1)  # as LoRA's base is
    by_index = seconds(lambda: stored.response_logprobs(batch, 1.0))
    with mock.patch.object(reference, "last_places", lambda n, like: n):
        by_slice = seconds(lambda: stored.response_logprobs(batch, 1.0))
    print(f"log-probabilities under a base stored in bf16, head by index, by slice: {by_index:.2f}, {by_slice:.2f}")


def in_turns(works: dict[str, tuple[Callable[[], object], AbstractContextManager[object]]], trials: int = 5) -> str:
    """Medians of a few trials, one of each in turn, so that whatever else the machine does meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for trial in range(trials + 1):
        for name, (work, setting) in works.items():
            with setting:
                started = time.perf_counter()
                work()
            if trial:  # the first is a warm-up
                found[name].append(time.perf_counter() - started)
    return ", ".join(f"{name} {median(times):.3f}" for name, times in found.items())


def base_in_bf16() -> LlamaForCausalLM:
    """All 30 layers."""
    base = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).eval().to(BF16)
    base.set_attn_implementation(ATTENTION)
    return base


def packed() -> None:
    """Passes over one row of tokens; responses all of one length, and of all lengths up to it."""
    print(TURNS.format(torch.get_num_threads()))
    policy, longest = lora_policy(base_in_bf16(), BF16), torch.full((ROWS,), NEW)
    plain = mock.patch.object(packed_rows, "why_not", return_value="off")
    uneven = torch.linspace(1, NEW, ROWS).round()[torch.randperm(ROWS)]
    for prompt, group in ((64, 1), (64, 4), (512, 8)):
        for name, lengths in (("equal", longest), (f"1 to {NEW}", uneven)):
            mask = (torch.arange(NEW) < lengths.unsqueeze(1)).long()
            work = partial(train, policy, replace(rows(prompt, group), response_mask=mask))
            found = in_turns({"packed": (work, nullcontext()), "not": (work, plain)})
            print(f"forward and backward, groups of {group} behind {prompt}, lengths {name}: {found}")


def with_lora() -> None:
    """What is for adapters on a base stored in bf16, and for groups behind one prompt."""
    print(TURNS.format(torch.get_num_threads()))
    policy = lora_policy(base_in_bf16(), BF16)
    peft = mock.patch.object(FusedLoraLinear, "forward", Linear.forward)
    theirs = mock.patch.object(decoding, "why_not", return_value="off")
    work = partial(train, policy, rows(64, 1))
    print("LoRA, forward and backward: " + in_turns({"in the product": (work, nullcontext()), "PEFT's": (work, peft)}))
    copying = {
        "merged as packed": (policy.for_sampling, nullcontext()),
        "all merged first": (policy.for_sampling, theirs),
    }
    print("a copy to sample with: " + in_turns(copying))
    for prompt, group in ((64, 4), (256, 4), (512, 8)):
        work = partial(decode, policy, rows(prompt, group), NEW, group)
        once, copied = (
            mock.patch.object(policy, "limits", Limits(held_once_from=tokens)) for tokens in (1, prompt + 1)
        )
        found = in_turns({"prompts once": (work, once), "copied": (work, copied), "transformers'": (work, theirs)})
        print(f"copy, prefill and {NEW} tokens in groups of {group} behind {prompt}: {found}")
    batch, found = rows(64, 1), {"one buffer": [], "a tensor a step": []}
    for _ in range(5):
        for name, draw in (("one buffer", inverse_cdf), ("a tensor a step", plain_draw)):
            found[name].append(drawing(policy, batch, draw))
    times = ", ".join(f"{name} {1e3 * median(spent) / NEW:.2f}" for name, spent in found.items())
    print(f"a draw for all rows between two passes, milliseconds: {times}")


@torch.no_grad()
def drawing(policy: Policy, batch: Sequences, draw: Callable[[Tensor, Tensor, float], object]) -> float:
    """Seconds of NEW draws alone, where decoding makes them: alone in a loop they find memory in another state."""
    policy, attention, spent = policy.for_sampling(), batch.prompt_mask, 0.0
    logits, held = policy.prefill(batch.prompt_ids, attention)
    for t in range(NEW):
        uniforms, started = torch.rand(ROWS), time.perf_counter()
        draw(logits, uniforms, 1.0)
        spent += time.perf_counter() - started
        attention = torch.cat([attention, attention.new_ones(ROWS, 1)], dim=1)
        logits = policy.decode(batch.response_ids[:, t], attention, held)
    return spent


def plain_draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """What inverse_cdf computes, a new tensor for each of its steps."""
    logp = torch.log_softmax(logits.float() / temperature, dim=-1)
    cdf = logp.exp().cumsum(-1)
    tokens = torch.searchsorted(cdf, uniforms.unsqueeze(1) * cdf[:, -1:], right=True)
    return tokens.squeeze(1), logp.gather(1, tokens).squeeze(1)


def attention() -> None:
    """Forward and backward of a layer's attention, milliseconds: nine heads of 64 on three keys."""

    class Module(nn.Module):
        num_key_value_groups, is_causal = 3, True

    print(f"{torch.get_num_threads()} threads; rows, queries, keys: products, the kernel; ms")
    for dtype in (BF16, torch.float32):
        for batch, queries, keys in (
            (8, 64, 128),
            (16, 128, 128),
            (4, 256, 256),
            (16, 64, 576),
            (8, 128, 768),
            (2, 512, 512),
        ):
            shapes = ((batch, 9, queries, 64), (batch, 3, keys, 64), (batch, 3, keys, 64))
            q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
            seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
            above = torch.randn(batch, 9, queries, 64, dtype=dtype)

            def products(q=q, k=k, v=v, hidden=~seen[None, None], above=above) -> None:
                grouped_attention(q, k, v, hidden, 0.125).backward(above)

            def kernel(q=q, k=k, v=v, seen=seen if queries < keys else None, above=above) -> None:
                mask = None if seen is None else seen[None, None]
                out, _ = sdpa_attention_forward(Module(), q, k, v, mask, scaling=0.125)
                out.transpose(1, 2).backward(above)

            found = [1e3 * seconds(work, trials=7) for work in (products, kernel)]
            print(f"{str(dtype)[6:]} {batch}, {queries}, {keys}: {found[0]:.1f}, {found[1]:.1f}")


def in_fp32() -> None:
    shape = SHAPE | {"num_hidden_layers": 6, "vocab_size": 8192}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape)).eval()
    policy = Engine().policy(model, torch.float32)
    print(f"{torch.get_num_threads()} threads, fp32, {ROWS} rows, {NEW} response tokens; seconds with, without")
    for prompt, group in ((64, 4), (512, 8)):
        batch = rows(prompt, group)
        with_it = seconds(lambda b=batch: train(policy, b))
        with mock.patch.object(shared_prompts, "why_not", return_value="off"):
            without = seconds(lambda b=batch: train(policy, b), trials=1)
        print(f"shared prompts of {prompt}, groups of {group}, forward and backward: {with_it:.2f}, {without:.2f}")
        alone = rows(prompt, 1)
        with_it = seconds(lambda b=alone: decode(policy, b, NEW // 4))
        with mock.patch.object(roomy_cache, "why_not", return_value="off"):
            without = seconds(lambda b=alone: decode(policy, b, NEW // 4))
        print(f"room in the cache behind {prompt}, prefill and {NEW // 4} tokens: {with_it:.2f}, {without:.2f}")
    lora, batch = lora_policy(model, torch.float32), rows(64, 1)
    with_it = seconds(lambda: decode(lora, batch, NEW))
    with mock.patch.object(FastPolicy, "for_sampling", lambda self: self):
        without = seconds(lambda: decode(lora, batch, NEW))
    print(f"merged adapter, prefill and {NEW} tokens: {with_it:.2f}, {without:.2f}")
    hidden, weight = torch.randn(4, 64, 576), 0.02 * torch.randn(49152, 576)
    ids = torch.randint(49152, (4, 64))
    found = [seconds(lambda f=f: head(f, hidden, weight, ids)) for f in (token_logprobs, plain_logprobs)]
    print(f"log-probabilities of 256 tokens at 49152, with the head: {found[0]:.2f}, {found[1]:.2f}")


SETS = {  # by flag: the work, and what it is about
    "bf16": (in_bf16, "what is for bf16 alone; 6 layers, the whole vocabulary; on one thread"),
    "lora": (with_lora, "adapters in bf16, and groups; all 30 layers, on two threads"),
    "packed": (packed, "rows in one, without padding; LoRA in bf16, all 30 layers, on two threads"),
    "attention": (attention, "a layer's attention, as products and as the kernel; on one thread"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = parser.add_mutually_exclusive_group()
    for name, (work, about) in SETS.items():
        sets.add_argument(f"--{name}", dest="work", action="store_const", const=work, help=about)
    parser.set_defaults(work=in_fp32)
    torch.manual_seed(0)
    parser.parse_args().work()


if __name__ == "__main__":
    main()
