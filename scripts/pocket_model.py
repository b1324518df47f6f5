"""The pocket start model: a tiny Llama and the one pass of supervised training that makes it.

The loop is plain PyTorch: at 30 ms a step the Trainer's collation, accelerate wrappers and logging cost more than the
step itself, and the batches are cut by padded tokens rather than rows.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from pocket_corpus import Example, Mixture, examples
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True)
class TrainSettings:
    """Shape of the model and recipe of its training."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    tokens: int = 8_000_000  # padded training tokens
    batch_tokens: int = 1024  # padded tokens per step
    learning_rate: float = 3e-3
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 0.05
    mixture: Mixture = field(default_factory=Mixture)
    pool: int = 1024  # examples sorted by length at a time


def new_model(tokenizer: PreTrainedTokenizerFast, s: TrainSettings) -> LlamaForCausalLM:
    """A Llama with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=s.hidden,
        intermediate_size=s.intermediate,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        attn_implementation="eager",  # faster than SDPA's CPU backward below about 200 tokens
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=128
    )
    return model


def encode(tokenizer: PreTrainedTokenizerFast, batch: list[Example]) -> list[tuple[list[int], int]]:
    """(ids, number of leading ids without a loss) of each example."""
    prefixes = tokenizer([e.prefix for e in batch])["input_ids"]
    targets = tokenizer([e.target for e in batch])["input_ids"]
    return [(p + t, len(p)) for p, t in zip(prefixes, targets, strict=True)]


def batches(
    tokenizer: PreTrainedTokenizerFast, stream: Iterator[Example], s: TrainSettings, rng: random.Random
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless (ids (B, T), attention mask (B, T), labels (B, T), -100 = no loss) of similar lengths."""
    while True:
        rows = sorted(encode(tokenizer, list(islice(stream, s.pool))), key=lambda r: len(r[0]))
        groups: list[list[tuple[list[int], int]]] = [[]]
        for row in rows:
            if len(row[0]) * (len(groups[-1]) + 1) > s.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            yield _collate(group, tokenizer.pad_token_id)


def _collate(group: list[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    width = max(len(ids) for ids, _ in group)
    ids = torch.full((len(group), width), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, (row, start) in enumerate(group):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        labels[i, start : len(row)] = ids[i, start : len(row)]
    return ids, mask, labels


def train_start_model(tokenizer: PreTrainedTokenizerFast, s: TrainSettings, seed: int) -> LlamaForCausalLM:
    """The supervised start model: AdamW, warm-up and cosine decay over a fixed number of padded tokens."""
    torch.manual_seed(seed)
    model = new_model(tokenizer, s).train()
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": s.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=s.learning_rate, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    rng = random.Random(f"corpus-{seed}")
    stream = batches(tokenizer, examples(rng, s.mixture), s, random.Random(f"batches-{seed}"))
    done, step, began = 0, 0, time.perf_counter()
    while done < s.tokens:
        ids, mask, labels = next(stream)
        share = done / s.tokens
        rate = s.learning_rate * min(1.0, (share + 1e-3) / s.warmup) * (0.52 + 0.48 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
        counted = labels[:, 1:] != -100
        # logits only where there is a loss: a third of the positions
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), labels[:, 1:][counted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done += ids.numel()
        step += 1
        if step % 500 == 0:
            pace = done / (time.perf_counter() - began)
            print(f"  step {step}  {share:.0%}  loss {loss.item():.3f}  {pace:.0f} tokens/s", flush=True)
    return model.eval()
