"""Loading of a start model; what the engine relies on in any architecture is tried on a few tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from align.config import ModelConfig, QuantizationConfig
from align.engine.cache import NAMES
from align.engine.inputs import forward_arguments
from align.errors import InputError, first_line
from align.models.load import load_causal_lm

TOKENS, PADDING = 8, 5
# Total variation between distributions: more than rounding moves, less than reading the wrong tokens does.
EXACT = 1e-3
ROUNDED = 0.25  # of weights in half precision, or quantized; SmolLM2-135M's is 0.04 in bf16, 9e-6 in fp32


def load_start_model(
    config: ModelConfig, *, dtype: torch.dtype, device: torch.device, quantization: QuantizationConfig | None = None
) -> PreTrainedModel:
    """Load a causal LM (`load_causal_lm`); refuse an architecture whose log-probabilities would be wrong.

    Raises:
        InputError: As `load_causal_lm` and `check_architecture`.
    """
    model = load_causal_lm(config, dtype=dtype, device=device, quantization=quantization)
    check_architecture(model, config.path)
    return model


@torch.no_grad()
def check_architecture(model: PreTrainedModel, path: str) -> None:
    """Try that a token's distribution depends on all tokens before it and on nothing else, and that a cache is kept.

    Costs two passes of a few tokens. A recurrence that runs over the padding, attention to later tokens, or positions
    that count the padding would only show as figures that are a little wrong.

    Raises:
        InputError: What the architecture lacks.
    """
    lack = _lack(model)
    if lack is not None:
        raise InputError("model.path", f"{path} ({type(model).__name__})", f"an architecture {lack}")


def _lack(model: PreTrainedModel) -> str | None:
    """Return what the architecture would need to be; None where nothing is amiss."""
    tokens, padded, mask = _rows(model)
    try:
        out = model(input_ids=padded, use_cache=True, **forward_arguments(model, mask))
        one = model(input_ids=tokens, use_cache=False, **forward_arguments(model, torch.ones_like(tokens)))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return f"that reads rows padded from the left ({first_line(error)})"
    if not any(isinstance(out.get(key), Cache) for key in NAMES):
        return "with a cache of transformers' kind, which sampling goes on from"
    behind, alone = (torch.softmax(logits.float(), -1) for logits in (out.logits[:, PADDING:], one.logits))
    exact = model.dtype is torch.float32 and not getattr(model, "is_quantized", False)
    within = EXACT if exact else ROUNDED
    if _gap(behind[0, :-1], behind[2, :-1]) > within:
        return "that reads from left to right: this one sees later tokens"
    if max(_gap(behind[0], behind[1]), _gap(behind[0], alone[0])) > within:
        return "that leaves out padding: this one's probabilities change with it"
    return None


def _rows(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens (1, T); padded from the left, with other padding, with another end (3, P + T); their mask."""
    size = int(model.config.get_text_config().vocab_size)
    # From the middle of the vocabulary, as special tokens stand at its ends.
    ids = (size // 4 + torch.arange(TOKENS + PADDING + 1) * max(1, size // 64)) % size
    tokens, padding = ids[:TOKENS], ids[TOKENS:-1]
    last = torch.cat([tokens[:-1], ids[-1:]])
    rows = [torch.cat([padding, tokens]), torch.cat([padding.flip(0), tokens]), torch.cat([padding, last])]
    mask = torch.ones(len(rows), PADDING + TOKENS, dtype=torch.long)
    mask[:, :PADDING] = 0
    return tokens.unsqueeze(0).to(model.device), torch.stack(rows).to(model.device), mask.to(model.device)


def _gap(one: Tensor, other: Tensor) -> float:
    """Compute the mean total variation between distributions (T, V)."""
    return float((one - other).abs().sum(-1).mean()) / 2
