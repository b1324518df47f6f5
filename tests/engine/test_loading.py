"""Architectures whose log-probabilities would be wrong are refused by name; all others are loaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from align.config import ModelConfig
from align.engine import loading
from align.errors import InputError
from tests import folders, tiny

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def made(kind: str, **settings: object) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **SIZES | {"vocab_size": 200, "initializer_range": 0.3} | settings)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def refused(model: PreTrainedModel, why: str) -> None:
    with pytest.raises(InputError, match=f"model.path: given 'PATH .{type(model).__name__}.'; allowed: .*{why}"):
        loading.check_architecture(model, "PATH")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "opt", "bloom", "falcon_h1", "mixtral"])
def test_the_usual_ones_pass(name: str, dtype: torch.dtype) -> None:
    given = {"dtype": dtype, "device": tiny.CPU}
    assert loading.load_start_model(ModelConfig(path=str(folders.folder(name))), **given).dtype is dtype


def masked(body: nn.Module, change: Callable[[Tensor], Tensor | None]) -> None:
    """Have a transformer read another mask than it is given."""
    forward = type(body).forward.__get__(body)

    def call(*args: object, attention_mask: Tensor, **kwargs: object) -> object:
        return forward(*args, attention_mask=change(attention_mask), **kwargs)

    body.forward = call


def test_attention_to_later_tokens_is_refused() -> None:
    model = made("llama")
    masked(model.model, lambda mask: mask[:, None, None].bool().expand(-1, 1, mask.shape[1], -1))
    refused(model, "sees later tokens")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_mask_that_is_not_read_is_refused(dtype: torch.dtype) -> None:
    model = made("llama").to(dtype)
    loading.check_architecture(model, "PATH")
    masked(model.model, lambda mask: None)
    refused(model, "leaves out padding")


def test_positions_that_count_the_padding_are_refused() -> None:
    model = made("gpt2", n_embd=32, n_layer=2, n_head=4)
    loading.check_architecture(model, "PATH")
    forward = type(model.transformer).forward.__get__(model.transformer)
    model.transformer.forward = lambda *args, position_ids=None, **kwargs: forward(*args, **kwargs)
    refused(model, "leaves out padding")


@pytest.mark.parametrize(("kind", "settings"), [("rwkv", {"attention_hidden_size": 32}), ("openai-gpt", {})])
def test_a_model_without_a_cache_of_transformers_kind_is_refused(kind: str, settings: dict[str, int]) -> None:
    refused(made(kind, **settings), "a cache of transformers' kind")


def test_what_fails_on_padded_rows_is_refused_with_its_reason() -> None:
    refused(made("xlstm", embedding_dim=32, num_heads=4, num_blocks=2), "padded from the left .mat")
