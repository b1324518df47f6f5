"""Pairs that a tiny model can learn from, and what the models that are trained on them need."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from align.config import AdapterConfig, Config, RewardConfig, RewardModelSource, SparseCredit
from align.engine.engine import Engine
from align.engine.reference import ValueHead
from align.evaluation.judge import load_value_head
from align.models.chat_tokenizer import ChatTokenizer
from align.run.stage import Stage
from align.types import Pair
from tests import tiny

LORA = AdapterConfig(name="lora", r=4, alpha=8)
RATE = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 4}
ON = {"device": tiny.CPU, "dtype": torch.float32}


def make_pairs(n: int, seed: int) -> list[Pair]:
    """Words of the first letters of the alphabet are preferred to words of the last; length says nothing."""
    rng = random.Random(seed)
    starts = tiny.prompts(8)

    def word(letters: str) -> str:
        return "".join(rng.choices(letters, k=rng.randint(2, 6)))

    return [tiny.pair(rng.choice(starts), word("abcdefgh"), word("stuvwxyz")) for _ in range(n)]


TRAIN, HELD_OUT = make_pairs(128, 0), make_pairs(60, 1)


def setting(
    adapter: AdapterConfig | None = None, shape: str = "llama", **source: Any
) -> tuple[Config, RewardModelSource]:
    options = RewardModelSource(**(RATE | source))
    made = tiny.config(adapter=adapter, shape=shape, reward=RewardConfig(source=options, credit=SparseCredit()))
    made.callbacks.progress.enabled = False
    return made, options


def stage(
    folder: Path | None,
    config: Config,
    train: Sequence[Pair] = TRAIN,
    held_out: Sequence[Pair] = HELD_OUT,
    *,
    chat: ChatTokenizer | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Stage:
    """What a stored model is trained with, in `folder`; None = where it will be stored."""
    given = Stage(config, chat or tiny.chat(), train, held_out, tiny.CPU, torch.float32, say)
    if folder is None:
        return given
    folder.mkdir(parents=True, exist_ok=True)
    return given.at(folder, "reward model")


def loaded(folder: Path) -> ValueHead:
    """The reward model in `folder`, alone."""
    return load_value_head(str(folder), tiny.CPU, torch.float32, Engine(), key="reward.source.path")


@torch.no_grad()
def alone(model: ValueHead, pair: Pair, response: Sequence[int]) -> float:
    """Score of one response, without padding."""
    ids = torch.tensor([[*pair.prompt.input_ids, *response]])
    return float(model(ids, torch.ones_like(ids))[0, -1])
