"""The size of micro-batches where nobody has given one."""

from __future__ import annotations

import pytest
from transformers import Gemma3nTextConfig, GPT2Config, LlamaConfig, MixtralConfig, OPTConfig, Qwen2Config

from align.engine.budget import FEWEST, MEMORY, MOST, micro_batch_tokens
from tests import tiny

SMOL = {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}


def llama(layers: int, width: int, inner: int, **more: int) -> LlamaConfig:
    return LlamaConfig(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, **(SMOL | more))


def test_what_is_given_is_taken():
    assert micro_batch_tokens(llama(30, 576, 1536), 300) == 300


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (tiny.model_config("llama"), MOST),
        (llama(30, 576, 1536), 2048),  # SmolLM2-135M: 30 (12 * 576 + 3 * 1536) + 49152 = 394752 numbers a token
        (llama(32, 960, 2560, num_attention_heads=15, num_key_value_heads=5), 1024),  # SmolLM2-360M
        (Qwen2Config(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, vocab_size=151936), 1024),
        (llama(80, 16380, 65536), FEWEST),
    ],
)
def test_it_falls_with_the_size_of_the_model(config, expected):
    assert micro_batch_tokens(config) == expected


def test_the_numbers_a_token_by_hand():
    numbers = 30 * (12 * 576 + 3 * 1536) + 49152
    assert 2048 * 4 * numbers <= MEMORY < 4096 * 4 * numbers


def test_experts_and_layers_of_different_widths():
    one = MixtralConfig(hidden_size=64, intermediate_size=512, num_hidden_layers=20, num_experts_per_tok=1)
    two = MixtralConfig(hidden_size=64, intermediate_size=512, num_hidden_layers=20, num_experts_per_tok=64)
    assert micro_batch_tokens(two) < micro_batch_tokens(one)
    varied = Gemma3nTextConfig(intermediate_size=[512] * 34 + [8192])
    assert micro_batch_tokens(varied) == micro_batch_tokens(Gemma3nTextConfig(intermediate_size=8192))


def test_feed_forward_widths_under_other_names():
    """GPT-2's own is 4 times its width where none is given; OPT calls it ffn_dim."""
    assert micro_batch_tokens(GPT2Config()) == micro_batch_tokens(GPT2Config(n_inner=4 * 768)) == 2048
    assert micro_batch_tokens(OPTConfig(hidden_size=768, ffn_dim=60000)) < micro_batch_tokens(OPTConfig(ffn_dim=3072))
