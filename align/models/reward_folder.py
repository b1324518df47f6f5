"""A stored reward model: a transformer's body or an adapter, a scalar head in a file of its own, and a card of figures.

transformers has no class for a scalar head on any causal LM, so `load_reward_model` is the loader; it takes a sequence
classifier of transformers, whole or as an adapter, as well.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from align.errors import InputError
from align.files import read_object
from align.models.load import body_of, load_body, load_sequence_classifier
from align.models.locate import HEAD, head_file, locate

CARD = "reward_model.json"


@dataclass(frozen=True)
class RewardCard:
    """Measurements of a reward model's training, and what it was made from."""

    accuracy: float | None  # share of held-out pairs whose chosen response scores higher, ties counting half
    longer_wins: float | None  # the same for preferring the longer response (in tokens)
    held_out_pairs: int
    train_pairs: int
    seconds: float
    key: Mapping[str, Any] = field(default_factory=dict)  # what the model was made from; its hash names the folder
    precision: str | None = None  # of compute in training
    # Correlation of the scores of unfinished responses with the final one, on held-out pairs, by what was trained:
    # `end`, and `prefixes` where there was a second stage (rewards/pairs.py: prefix_figures)
    prefix_scores: Mapping[str, Any] | None = None

    def write(self, folder: Path) -> None:
        (folder / CARD).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


def read_card(folder: Path) -> RewardCard | None:
    """Read the card in `folder`; None where the folder is a plain Hugging Face checkpoint."""
    path = folder / CARD
    return RewardCard(**read_object(path)) if path.is_file() else None


def linear_head(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    """Build an fp32 head (d -> 1) of a weight (1, d) and a bias (1,), 0 where there is none."""
    head = nn.utils.skip_init(nn.Linear, weight.shape[1], 1)  # which would draw from the global generator
    with torch.no_grad():
        head.weight.copy_(weight.float())
        head.bias.zero_() if bias is None else head.bias.copy_(bias.float())
    return head


def write_head(head: nn.Linear, folder: Path) -> None:
    """Store a scalar head beside its body or adapter."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.named_parameters()}
    save_file(tensors, folder / HEAD, metadata={"format": "pt"})


def read_head(folder: Path) -> nn.Linear | None:
    """Read what `write_head` stored; None where there is no such file."""
    path = folder / HEAD
    if not path.is_file():
        return None
    tensors = load_file(path)
    return linear_head(tensors["weight"], tensors.get("bias"))


def load_reward_model(
    path: str, *, dtype: torch.dtype, device: torch.device, key: str, pad_id: int | None = None
) -> tuple[PreTrainedModel, nn.Linear]:
    """Load a reward model as the body of a causal LM and the linear head on its states, weights in `dtype`.

    `path` is a stored reward model or a sequence classifier of transformers: a folder, a run's or an adapter's too, or
    a Hub id. `pad_id` is for a classifier without a pad token of its own; None = its chat tokenizer's. Raises
    InputError, which names `key`, where nothing loadable is there or the head is not linear.
    """
    file = head_file(locate(path, key=key))
    head = None if file is None else read_head(file.parent)
    if head is not None:
        return load_body(path, dtype=dtype, device=device, key=key), head.to(device)
    model = load_sequence_classifier(path, dtype=dtype, device=device, key=key, pad_id=pad_id)
    score = getattr(model, "score", None)
    if not isinstance(score, nn.Linear):
        raise InputError(key, path, "a causal classifier with a linear `score` head")
    return body_of(model, key), linear_head(score.weight, score.bias).to(device)
