"""Attention on CPUs: what transformers' own gives, for whole models, and theirs wherever ours is not for it."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from align.engine.engine import Engine
from align.engine.fast import cpu_attention as attention
from align.engine.fast.cpu_attention import CHECKED, MOST_KEYS, MOST_QUERIES, cpu_attention
from align.engine.fast.packed_rows import ATTENTION
from align.models.load import load_causal_lm
from tests import tiny

OURS = [shape for shape in sorted(tiny.SHAPES) if tiny.model_config(shape).model_type in CHECKED]
QUERIES = MOST_QUERIES[torch.float32]


class Module(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


def inputs(length: int, keys: int, seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = ((2, 6, length, 8), (2, 2, keys, 8), (2, 2, keys, 8))
    return [torch.randn(shape, generator=rng) for shape in shapes]


@pytest.mark.parametrize("causal", [None, True, False])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "keys"), [(1, 9), (4, 9), (9, 9)])
def test_it_is_transformers_attention(length, keys, masked, causal):
    query, key, value = inputs(length, keys)
    mask = torch.rand(2, 1, length, keys, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None
    if masked:
        mask[..., 0] = True
    settings = {"scaling": 0.3, "is_causal": causal}
    found, weights = cpu_attention(Module(), query, key, value, mask, **settings)
    expected, _ = sdpa_attention_forward(Module(), query, key, value, mask, **settings)
    assert weights is None and found.shape == (2, length, 6, 8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "keys", "mask", "settings", "ours"),
    [
        (4, 9, "bool", {}, True),
        (9, 9, None, {}, True),
        (QUERIES, MOST_KEYS, "bool", {}, True),
        (QUERIES + 1, MOST_KEYS, "bool", {}, False),
        (4, MOST_KEYS + 1, "bool", {}, False),
        (4, 9, None, {}, False),  # causal from the upper left, in transformers' reading
        (4, 9, "added", {}, False),
        (4, 9, "bool", {"dropout": 0.5}, False),
        (4, 4, None, {"position_bias": torch.zeros(1, 6, 4, 4)}, False),
    ],
)
def test_which_hands_it_is_in(length, keys, mask, settings, ours):
    query, key, value = inputs(length, keys)
    masks = {None: None, "bool": torch.ones(2, 1, length, keys, dtype=torch.bool), "added": torch.zeros(1, 1, 4, 9)}
    with mock.patch.object(attention, "grouped_attention", wraps=attention.grouped_attention) as used:
        out, _ = cpu_attention(Module(), query, key, value, masks[mask], scaling=0.3, **settings)
    assert used.called == ours and out.shape == (2, length, 6, 8)


def test_what_is_checked_is_switched_and_nothing_else():
    for shape in tiny.SHAPES:
        assert (tiny.policy(shape).model.config._attn_implementation == ATTENTION) == (shape in OURS)
    assert {"llama", "qwen2"} <= set(OURS) != set(tiny.SHAPES)
    for asked in ("sdpa", "eager"):
        config = tiny.config()
        config.model.attn_implementation = asked
        model = load_causal_lm(config.model, dtype=torch.float32, device=tiny.CPU)
        engine = Engine.of(config)
        policy = engine.policy(model, torch.float32)
        assert model.config._attn_implementation == asked
        assert engine.report(policy, cuda_graphs=True)["paths"]["cpu_attention"]["why"].endswith(asked)


def test_nothing_of_it_is_stored(tmp_path):
    """What a run leaves loads with transformers alone."""
    tiny.policy().save(tmp_path)
    assert ATTENTION not in "".join(p.read_text() for p in tmp_path.glob("*.json"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
