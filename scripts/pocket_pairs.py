"""Preference pairs of the pocket world: two samples of the start model per prompt, labelled by its labeller."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pocket_corpus import task_stream
from pocket_tokenizer import render
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from align.worlds.pocket import PocketWorld, Task
from align.worlds.pocket.labeller import Labeller


@dataclass(frozen=True)
class PairSettings:
    """How many pairs, and how they come about."""

    train: int = 7000
    held_out: int = 1300  # half on the tune side, half on the report side
    long_share: float = 0.4
    samples: int = 2  # drawn per prompt; two different ones make a pair
    max_new_tokens: int = 128
    batch: int = 512


@dataclass(frozen=True)
class Response:
    text: str
    ended: bool


@torch.no_grad()
def respond(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[Task],
    *,
    seed: int,
    greedy: bool = False,
    batch: int = 512,
    max_new_tokens: int = 128,
) -> list[Response]:
    """One response per task at temperature 1 (or greedy); tasks of similar length share a batch."""
    encoded = tokenizer([render(task.prompt) for task in tasks])["input_ids"]
    order = sorted(range(len(tasks)), key=lambda i: (tasks[i].family.length, len(encoded[i])))
    mode: dict[str, Any] = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}
    found: dict[int, Response] = {}
    torch.manual_seed(seed)
    for at in range(0, len(order), batch):
        rows = order[at : at + batch]
        inputs = tokenizer.pad({"input_ids": [encoded[i] for i in rows]}, padding_side="left", return_tensors="pt")
        out = model.generate(**inputs, **mode, max_new_tokens=max_new_tokens)
        for i, ids in zip(rows, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ended = tokenizer.eos_token_id in ids
            kept = ids[: ids.index(tokenizer.eos_token_id)] if ended else ids
            found[i] = Response(tokenizer.decode(kept, skip_special_tokens=True), ended)
    return [found[i] for i in range(len(tasks))]


def unique_tasks(rng: random.Random, sides: frozenset[str], count: int, long_share: float) -> list[Task]:
    """Tasks with different prompts."""
    found: dict[str, Task] = {}
    stream = task_stream(rng, sides, long_share)
    while len(found) < count:
        task = next(stream)
        found.setdefault(task.prompt, task)
    return list(found.values())


def make_pairs(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    chosen_tasks: Sequence[Task],
    sides: Sequence[str],
    s: PairSettings,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """A row per task whose samples offer two different ended responses; the tasks' order is kept."""
    repeated = [task for task in chosen_tasks for _ in range(s.samples)]
    responses = respond(model, tokenizer, repeated, seed=seed, batch=s.batch, max_new_tokens=s.max_new_tokens)
    rng = random.Random(f"labels-{seed}")
    rows = []
    for i, (task, side) in enumerate(zip(chosen_tasks, sides, strict=True)):
        texts = sorted({r.text for r in responses[i * s.samples : (i + 1) * s.samples] if r.ended and r.text})
        if len(texts) >= 2:
            rows.append(_label(task, rng.sample(texts, 2), side, rng))
    return rows


def _label(task: Task, texts: list[str], side: str, rng: random.Random) -> dict[str, Any]:
    row = task.row()
    gold = [PocketWorld().gold(row, text, True).total for text in texts]
    first = Labeller().prefers(texts[0], texts[1], gold[0], gold[1])
    won = 0 if rng.random() < first else 1
    return {
        **row,
        "split": side,
        "chosen": texts[won],
        "rejected": texts[1 - won],
        "gold_chosen": gold[won],
        "gold_rejected": gold[1 - won],
        "label_probability": round(first if won == 0 else 1 - first, 6),  # that a fresh label would agree
    }
