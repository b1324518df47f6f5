"""Preference pairs of the pocket world: two samples of the start model per prompt, labelled by its labeller."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pocket_corpus import task_stream
from pocket_labeller import Labeller

from align.config import ModelConfig
from align.engine.engine import Engine
from align.engine.reference import Policy
from align.engine.sampling import Noise, left_pad, sample
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_causal_lm, load_chat_tokenizer
from align.types import Prompt
from align.worlds.pocket import PocketWorld, Task


@dataclass(frozen=True)
class PairSettings:
    """How many pairs, and how they come about."""

    train: int = 8000
    evaluation: int = 5000  # for the reward model that only measures; no prompt is among the training ones
    held_out: int = 1300  # half on the tune side, half on the report side
    long_share: float = 0.4
    samples: int = 2  # drawn per prompt; two different ones make a pair
    max_new_tokens: int = 128
    batch: int = 512


@dataclass(frozen=True)
class Response:
    text: str
    ended: bool


@dataclass(frozen=True)
class StartModel:
    """The trained start model as the package samples from it."""

    policy: Policy
    chat: ChatTokenizer

    @classmethod
    def load(cls, folder: Path) -> StartModel:
        config = ModelConfig(path=str(folder), attn_implementation="eager")
        device = torch.device("cpu")
        model = load_causal_lm(config, dtype=torch.float32, device=device, quantization=None)
        return cls(Engine().policy(model.eval(), torch.float32), load_chat_tokenizer(config))

    def prompts(self, tasks: Sequence[Task]) -> list[Prompt]:
        """Each task's prompt; `id` is its place."""
        chats = [({"role": "user", "content": task.prompt},) for task in tasks]
        return [
            Prompt(i, chat, task.prompt, tuple(self.chat.encode_prompt(chat)), {})
            for i, (task, chat) in enumerate(zip(tasks, chats, strict=True))
        ]

    def sample(
        self, tasks: Sequence[Task], *, seed: int, batch: int = 512, max_new_tokens: int = 128
    ) -> list[Response]:
        """One response per task at temperature 1; tasks of similar length share a batch."""
        prompts = self.prompts(tasks)
        order = sorted(range(len(tasks)), key=lambda i: (tasks[i].family.length, len(prompts[i].input_ids)))
        found: dict[int, Response] = {}
        for at in range(0, len(order), batch):
            rows = [prompts[i] for i in order[at : at + batch]]
            rollout = sample(
                self.policy,
                self.chat,
                rows,
                noise=Noise(seed, "pairs"),
                max_new_tokens=max_new_tokens,
                temperature=1.0,
            )
            cut = zip(rollout.response_ids.tolist(), rollout.lengths.tolist(), rollout.ended.tolist(), strict=True)
            for prompt, (ids, length, ended) in zip(rows, cut, strict=True):
                found[prompt.id] = Response(self.chat.decode(ids[:length]), ended)
        return [found[i] for i in range(len(tasks))]

    @torch.no_grad()
    def greedy(self, tasks: Sequence[Task], *, batch: int = 512, max_new_tokens: int = 128) -> list[Response]:
        """The likeliest next token at every place."""
        prompts, found = self.prompts(tasks), []
        for at in range(0, len(prompts), batch):
            ids, mask = left_pad([p.input_ids for p in prompts[at : at + batch]], self.chat.pad_id, self.policy.device)
            out = self.policy.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens
            )
            for row in out[:, ids.shape[1] :].tolist():
                ended = self.chat.end_id in row
                kept = row[: row.index(self.chat.end_id)] if ended else row
                found.append(Response(self.chat.decode(kept), ended))
        return found


def unique_tasks(
    rng: random.Random, sides: frozenset[str], count: int, long_share: float, taken: frozenset[str] = frozenset()
) -> list[Task]:
    """Tasks with different prompts, none of which is among `taken`."""
    found: dict[str, Task] = {}
    stream = task_stream(rng, sides, long_share)
    while len(found) < count:
        task = next(stream)
        if task.prompt not in taken:
            found.setdefault(task.prompt, task)
    return list(found.values())


def make_pairs(
    model: StartModel,
    chosen_tasks: Sequence[Task],
    sides: Sequence[str],
    s: PairSettings,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """A row per task whose samples offer two different ended responses; the tasks' order is kept."""
    repeated = [task for task in chosen_tasks for _ in range(s.samples)]
    responses = model.sample(repeated, seed=seed, batch=s.batch, max_new_tokens=s.max_new_tokens)
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
