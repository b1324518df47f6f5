"""Lending models to TRL's trainers, and getting them back as they were."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


@contextmanager
def own_forward(module: nn.Module) -> Iterator[None]:
    """Undo afterwards what was put in place of `module.forward`: TRL's fused head, accelerate's autocast."""
    before = vars(module).get("forward")
    try:
        yield
    finally:
        vars(module).pop("forward", None)
        if before is not None:
            vars(module)["forward"] = before


@contextmanager
def lent(model: PreTrainedModel, end_ids: Sequence[int]) -> Iterator[None]:
    """Let a trainer patch the model and write into its configuration; undone afterwards, weights aside.

    Meanwhile its generation ends at each of `end_ids`.
    """
    settings = {id(c): c for c in (model.config, model.config.get_text_config())}.values()
    before = [_plain(config) for config in settings]
    generation = model.generation_config
    model.generation_config = copy.deepcopy(generation)
    model.generation_config.eos_token_id = list(end_ids)
    try:
        with own_forward(model):
            yield
    finally:
        model.generation_config = generation
        for config, values in zip(settings, before, strict=True):
            for name in set(_plain(config)) - set(values):
                del vars(config)[name]
            vars(config).update(values)
        model.zero_grad(set_to_none=True)
        model.eval()


def _plain(config: PreTrainedConfig) -> dict[str, Any]:
    """A copy of a configuration's own values, without the configurations in it."""
    return {k: copy.deepcopy(v) for k, v in vars(config).items() if not isinstance(v, PreTrainedConfig)}
