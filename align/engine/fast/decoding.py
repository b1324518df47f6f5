"""Decoder layers of Llama's kind as sampling runs them in half precision: the same sums in fewer and larger steps."""

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2ForCausalLM

from align.engine.compat import attention_of, shell, untested
from align.engine.fast import prepacked
from align.engine.fast.cpu_attention import cpu_attention
from align.engine.fast.limits import Limits
from align.engine.fast.packed_rows import ATTENTION
from align.engine.fast.prepacked import PackedLinear, StoredLinear
from align.engine.fast.prompt_cache import PromptCache
from align.engine.fast.roomy_cache import sees_all

_LAYERS: dict[type[nn.Module], type[nn.Module]] = {  # whose code was read: they differ in nothing that is computed here
    LlamaForCausalLM: LlamaDecoderLayer,
    MistralForCausalLM: MistralDecoderLayer,
    Qwen2ForCausalLM: Qwen2DecoderLayer,
}


class DecodingLayer(nn.Module):
    """A frozen decoder layer: what reads the same states is one product, a norm one operation where a GPU has it.

    Its weights are packed on a CPU. It rounds where the layer does under autocast, which it switches off.
    """

    is_causal = True  # for transformers' attention

    def __init__(self, layer: Any, adapter: str | None, dtype: torch.dtype, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        attention, mlp = layer.self_attn, layer.mlp
        norms = [layer.input_layernorm, layer.post_attention_layernorm]
        self.norms = nn.ModuleList(norms if packed else [OneNorm(norm) for norm in norms])
        self.attention = cpu_attention if packed else sdpa_attention_forward
        self.read = _together((attention.q_proj, attention.k_proj, attention.v_proj), adapter, dtype, packed)
        self.write = _together((attention.o_proj,), adapter, dtype, packed)
        self.gate_up = _together((mlp.gate_proj, mlp.up_proj), adapter, dtype, packed)
        self.down = _together((mlp.down_proj,), adapter, dtype, packed)
        self.activation = mlp.act_fn
        self.index: int = attention.layer_idx
        self.width: int = attention.head_dim
        self.scale: float = attention.scaling
        self.num_key_value_groups: int = attention.num_key_value_groups  # heads that share keys, for transformers
        self.groups: int = attention.config.num_key_value_heads

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); the cache comes under either of transformers' names."""
        assert position_embeddings is not None
        cache = next((given for given in kwargs.values() if isinstance(given, Cache)), None)
        if self.packed and not isinstance(cache, PromptCache | None):
            raise TypeError(f"cache: given {type(cache).__name__}; allowed: PromptCache, or none")
        with torch.autocast(hidden_states.device.type, enabled=False):
            return self._forward(hidden_states, attention_mask, position_embeddings, cache)

    def _forward(
        self, hidden_states: Tensor, mask: Tensor | None, positions: tuple[Tensor, Tensor], cache: Cache | None
    ) -> Tensor:
        rows, length, _ = hidden_states.shape
        heads = self.read(self.norms[0](hidden_states)).view(rows, length, -1, self.width).transpose(1, 2)
        turned, value = heads[:, : -self.groups], heads[:, -self.groups :]
        turned = _turned(turned, *positions).to(value.dtype)
        query, key = turned[:, : -self.groups], turned[:, -self.groups :]
        attended = self._attend(query, key, value, mask, cache)
        hidden_states = hidden_states + self.write(attended.reshape(rows, length, -1))
        gate, up = self.gate_up(self.norms[1](hidden_states)).chunk(2, -1)
        return hidden_states + self.down(self.activation(gate) * up)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        if isinstance(cache, PromptCache) and cache.grid is not None:
            return cache.attend(self.index, query, key, value, None if mask is None else ~mask, self.scale)
        if cache is not None:
            key, value = cache.update(key, value, self.index)
        return self.attention(self, query, key, value, mask, scaling=self.scale)[0]


def why_not(model: Any, dtype: torch.dtype) -> str | None:
    """Why this model decodes with transformers' layers; None where `decoding_copy` applies."""
    kind = _LAYERS.get(type(model))
    if kind is None:
        return f"{type(model).__name__} is none of the kinds whose layers were read"
    if getattr(model, "is_quantized", False):  # also where the layers look plain
        return "quantized weights"
    if (reason := form_why_not(model, dtype)) is not None:
        return reason
    layers = model.model.layers
    inside = {id(module) for layer in layers for module in layer.modules()}
    products = [model.lm_head, *(_base(module) for layer in layers for module in _products(layer))]
    if any(isinstance(module, BaseTunerLayer) for module in model.modules() if id(module) not in inside):
        return "an adapter outside the decoder layers"
    if any(type(layer) is not kind for layer in layers) or any(type(module) is not nn.Linear for module in products):
        return "layers that are not the kind's own"
    return None if sees_all(model) else "a sliding window lets keys go"


def form_why_not(model: Any, dtype: torch.dtype) -> str | None:
    """Why layers have neither form, packed weights on a CPU in bf16 nor stored ones on a GPU in half precision."""
    attention, device = attention_of(model), model.device.type
    if device == "cpu":
        return "it takes the CPU attention, which is off" if attention != ATTENTION else prepacked.why_not(model, dtype)
    if device != "cuda":
        return f"the model is on {device}"
    if attention != "sdpa":
        return f"its attention is {attention}"
    return "fp32 on a GPU" if dtype is torch.float32 else untested("torch", "transformers")


def packs(model: Any) -> bool:
    """Whether the layers' weights are packed, as on a CPU, or stored as they are."""
    return bool(model.device.type == "cpu")


def decoding_copy(model: Any, dtype: torch.dtype, adapter: str | None, limits: Limits) -> Any:
    """Copy what computes as `model` does with this adapter (None: without any), until the next update of its weights.

    Only the products' weights are copied, an adapter's update added before they are rounded; `model` is not written
    to. On a CPU its cache is a PromptCache.
    """
    packed = packs(model)
    copied, body = shell(model), shell(model.model)
    body.layers = nn.ModuleList([DecodingLayer(layer, adapter, dtype, packed) for layer in model.model.layers])
    body.rotary_emb = Signed(deepcopy(body.rotary_emb))  # some kinds adapt to the longest sequence they have seen
    copied.model, copied.lm_head = body, _together((model.lm_head,), adapter, dtype, packed)
    if packed:
        copied.align_cache = partial(PromptCache, limits=limits)
    return copied


def _products(layer: Any) -> tuple[Any, ...]:
    a, m = layer.self_attn, layer.mlp
    return a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj


def _base(module: Any) -> Any:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _together(modules: tuple[Any, ...], adapter: str | None, dtype: torch.dtype, packed: bool) -> nn.Module:
    """One product for linear layers that read the same states; their outputs lie side by side."""
    biases = [bias.to(dtype) for module in modules if (bias := _base(module).bias) is not None]
    weights = [_weight(module, adapter).to(dtype) for module in modules]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    return (PackedLinear if packed else StoredLinear)(weight, torch.cat(biases) if biases else None)


def _weight(module: Any, adapter: str | None) -> Tensor:
    """(out, in), with the adapter's update as PEFT's merge adds it, in the adapter's type."""
    weight = _base(module).weight.detach()
    if adapter is None or not isinstance(module, BaseTunerLayer) or adapter not in module.lora_A:
        return weight
    down, up = module.lora_A[adapter].weight.detach(), module.lora_B[adapter].weight.detach()
    # Not PEFT's get_delta_weight: its two more tensors of the weight's size made the copy take 1.2 to 2 times as long.
    return torch.addmm(weight.to(up.dtype), up, down, alpha=module.scaling[adapter])


class OneNorm(nn.Module):
    """A root-mean-square norm (arXiv 1910.07467, eq. 4) as torch's one operation; transformers' are six.

    It rounds once, where transformers' rounds before the product with the weights as well.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D), of its type"""
        return nn.functional.rms_norm(states, self.weight.shape, self.weight.to(states.dtype), self.eps)


class Signed(nn.Module):
    """Rotary positions (arXiv 2104.09864) whose sines have the sign that the first half is turned with."""

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """cos and sin, (B, T, d) each, as `_turned` takes them"""
        cos, sin = self.rotary(*args, **kwargs)
        half = sin.shape[-1] // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)


def _turned(heads: Tensor, cos: Tensor, signed: Tensor) -> Tensor:
    """Heads (B, H, T, d) turned by what `Signed` gives, halves as in transformers."""
    across = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * cos.unsqueeze(1), across, signed.unsqueeze(1))
