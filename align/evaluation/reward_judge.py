"""A reward model that only judges: loaded once, trained against by nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from align.config import ModelConfig
from align.engine.engine import Engine
from align.engine.reference import ValueHead
from align.engine.value_head import body_of, linear_head
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_sequence_classifier, load_tokenizer
from align.rewards import RewardModelSource, Source
from align.worlds import resolve

KEY = "evaluation.reward_model"


def load_judge(
    path: str | Path, chat: ChatTokenizer, device: torch.device, dtype: torch.dtype, engine: Engine
) -> Source:
    """The reward model at `path`, with weights of its own in fp32 and compute in `dtype`; scores as it was trained.

    Raises:
        InputError: It cannot be loaded, reads another vocabulary than the policy's, or has no linear `score` head.
    """
    folder = resolve(str(path), KEY)
    if load_tokenizer(ModelConfig(path=folder), key=KEY).get_vocab() != chat.tokenizer.get_vocab():
        raise InputError(KEY, str(path), "a reward model with the policy's vocabulary")
    return RewardModelSource(load_scorer(folder, device, dtype, engine, key=KEY, pad_id=chat.pad_id))


def load_scorer(
    folder: str, device: torch.device, dtype: torch.dtype, engine: Engine, *, key: str, pad_id: int | None = None
) -> ValueHead:
    """A stored reward model as a scorer of every prefix.

    Raises:
        InputError: as `load_sequence_classifier`, or a head that is not linear; `key` is named.
    """
    model = load_sequence_classifier(folder, dtype=torch.float32, device=device, key=key, pad_id=pad_id)
    model.requires_grad_(False)
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise InputError(key, folder, "a causal classifier with a linear `score` head")
    return engine.value_head(body_of(model), linear_head(head.weight).to(device), dtype)
