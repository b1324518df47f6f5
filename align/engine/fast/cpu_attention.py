"""Attention on CPUs, in place of transformers' SDPA: of single tokens, as decoding does it, and of short sequences."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from align.engine.compat import attention_of, untested
from align.engine.fast.grouped_attention import SharedPrefix, grouped_attention
from align.engine.fast.packed_rows import ATTENTION, Packed

# Kinds of model whose code does the same under any name of its attention; others build masks for "sdpa" alone.
CHECKED = {"llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "phi3", "granite", "starcoder2", "olmo2"}
# Beyond these torch's kernel, which skips what a causal mask hides, catches up (techniques.py --attention); it does not
# keep the weights for the gradient, which at so many keys are a third of what a layer keeps.
MOST_QUERIES = {torch.float32: 128, torch.bfloat16: 256}
MOST_KEYS = 768
_OTHERS = ("position_bias", "softcap", "s_aux")  # what only transformers' own code knows


def cpu_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    prefix: SharedPrefix | None = None,
    packed: Packed | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Compute attention in the way that is fastest on a CPU: by products, as one head of many rows, or by SDPA.

    A single token's heads that share keys and values are read as rows of one product: torch's kernel for grouped heads
    reads keys and values once a head, and transformers packs the heads itself only where there is padding. Up to
    MOST_QUERIES tokens go through products (grouped_attention.py), whose gradient takes less time than the kernel's.

    Args:
        query: (B, H, T, d); key and value are (B, H / groups, S, d).
        attention_mask: None, or (B or 1, 1, T, S), bool or added.
        prefix: Keys and values before each row's own; S in the mask is of both then.
        packed: How one row of tokens, B = 1, is many; the mask is in there then.

    Returns:
        (B, T, H, d), and None in place of the weights.
    """
    if packed is not None:
        return packed.attend(lambda *states: cpu_attention(module, *states, **settings)[0], query, key, value), None
    rows, heads, length, width = query.shape
    groups, keys = key.shape[1], key.shape[2] + (0 if prefix is None else prefix.key.shape[2])
    plain = not settings.get("dropout") and all(settings.get(name) is None for name in _OTHERS)
    known = attention_mask.dtype is torch.bool if attention_mask is not None else length == keys
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    scale = settings.get("scaling")
    if plain and known and 1 < length <= MOST_QUERIES.get(dtype, 0) and keys <= MOST_KEYS:
        causal = settings.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        hidden = None if attention_mask is None else ~attention_mask
        if hidden is None and causal:
            hidden = query.new_ones(1, 1, length, keys, dtype=torch.bool).triu(1)
        of_prefix = None if prefix is None else prefix.to(dtype)
        states = (query.to(dtype), key.to(dtype), value.to(dtype))
        out = grouped_attention(*states, hidden, scale or width**-0.5, of_prefix)
        return out.transpose(1, 2).contiguous(), None
    if prefix is not None:
        key, value = prefix.rows(key, value)
    if plain and length == 1 and heads != groups:
        together = query.reshape(rows, groups, heads // groups, width)
        out = nn.functional.scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scale)
        return out.reshape(rows, 1, heads, width), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


def why_not(model: PreTrainedModel, chosen: str | None = None) -> str | None:
    """Why a model keeps the attention of transformers; None where `use` switches, or has switched, it.

    Args:
        chosen: The attention that the user chose; null leaves the choice to the engine.
    """
    if chosen is not None:
        return f"model.attn_implementation={chosen}"
    if model.device.type != "cpu":
        return f"the model is on {model.device.type}"
    if not type(model).__module__.startswith("transformers.") or model.config.model_type not in CHECKED:
        return f"{type(model).__name__} is none of the kinds whose code was read"  # nor is remote code under their name
    if attention_of(model) not in ("sdpa", ATTENTION):
        return f"its attention is {attention_of(model)}"
    return untested("torch", "transformers")


def use(model: PreTrainedModel, chosen: str | None = None) -> None:
    """Switch a model to `cpu_attention`, where it applies."""
    if attention_of(model) != ATTENTION and why_not(model, chosen) is None:
        model.set_attn_implementation(ATTENTION)


AttentionInterface.register(ATTENTION, cpu_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
