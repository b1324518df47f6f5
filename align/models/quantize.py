"""Quantization of base weights to int8 and nf4 through bitsandbytes: the only module that imports it."""

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from align.config import QuantizationConfig
from align.errors import InputError


def quantization_config(config: QuantizationConfig, compute_dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the quantization argument of `from_pretrained`; None for full-precision weights.

    int8 is LLM.int8() (Dettmers et al., arXiv 2208.07339); nf4 is 4-bit NormalFloat with double quantization
    (arXiv 2305.14314). Heads stay unquantized. InputError where bitsandbytes is not installed.
    """
    if config.name == "none":
        return None
    if config.name not in ("int8", "nf4"):
        raise InputError("quantization", config.name, "none, int8, nf4")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise InputError("quantization", config.name, "none, as bitsandbytes is not installed") from error
    if config.name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": compute_dtype}
    return BitsAndBytesConfig(load_in_4bit=True, **nf4)


def keep_differentiable(model: nn.Module) -> None:
    """Forbid 4-bit layers to repack their weights in place for inference.

    On CPUs with AVX512-BF16 the first forward without gradients repacks them for a product that passes no gradient on:
    adapters below would learn nothing, without an error (bitsandbytes 0.50, `Linear4bit.forward` in eval mode).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  bitsandbytes is not imported here
