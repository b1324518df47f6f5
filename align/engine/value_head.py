"""Parts that a value head is made of: the body of a model, and linear heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.engine.reference import ValueHead

__all__ = ["ValueHead", "body_of", "linear_head", "zero_head"]


def body_of(model: PreTrainedModel) -> PreTrainedModel:
    """The transformer without its language-model or classification head."""
    return getattr(model, model.base_model_prefix)


def zero_head(width: int) -> nn.Linear:
    """A head that scores everything 0: a critic that does not disturb the first advantages."""
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def linear_head(weight: Tensor) -> nn.Linear:
    """The bias-free head (1, d) of a sequence classifier as an fp32 layer with a bias of 0."""
    head = zero_head(weight.shape[1])
    with torch.no_grad():
        head.weight.copy_(weight.float())
    return head
