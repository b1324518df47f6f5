"""A reward model that only judges: loaded once, trained against by nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from align.config import ModelConfig
from align.engine.value_head import ValueHead
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_tokenizer
from align.models.reward_folder import load_reward_model
from align.rewards import RewardModelSource, Source
from align.worlds import resolve

KEY = "evaluation.reward_model"


def load_judge(path: str | Path, chat: ChatTokenizer, device: torch.device, dtype: torch.dtype) -> Source:
    """The reward model at `path`, with weights of its own in fp32 and compute in `dtype`; scores as it was trained.

    Raises:
        InputError: It cannot be loaded, reads another vocabulary than the policy's, or has no linear `score` head.
    """
    folder = resolve(str(path), KEY)
    if load_tokenizer(ModelConfig(path=folder), key=KEY).get_vocab() != chat.tokenizer.get_vocab():
        raise InputError(KEY, str(path), "a reward model with the policy's vocabulary")
    return RewardModelSource(load_scorer(folder, device, dtype, key=KEY, pad_id=chat.pad_id))


def load_scorer(
    folder: str, device: torch.device, dtype: torch.dtype, *, key: str, pad_id: int | None = None
) -> ValueHead:
    """A stored reward model as a scorer of every prefix.

    Raises:
        InputError: as `load_reward_model`; `key` is named.
    """
    body, head = load_reward_model(folder, dtype=torch.float32, device=device, key=key, pad_id=pad_id)
    model = ValueHead(body, head, dtype)
    return model.requires_grad_(False)
