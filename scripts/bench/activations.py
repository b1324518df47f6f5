"""What a backward pass keeps of every token, counted: the figure behind align/engine/budget.py.

    python scripts/bench/activations.py    # SmolLM2-135M's dimensions, of which a layer and the head

Bytes of all tensors that autograd saves and that are no weights, each storage once, in units of 4 bytes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from shapes import SHAPE, random_model

from align.config import AdapterConfig, ModelConfig
from align.engine.engine import Engine
from align.models.adapters import POLICY
from align.models.load import load_causal_lm
from align.types import Sequences

ROWS, LENGTH = 8, 64  # prompts and responses of this many tokens each


def kept(folder: Path, layers: int, dtype: torch.dtype, lora: bool) -> float:
    """Numbers of 4 bytes that a forward pass leaves for the backward one, a token."""
    model = load_causal_lm(
        ModelConfig(path=str(folder)), dtype=dtype if lora else torch.float32, device=torch.device("cpu")
    )
    model.model.layers, model.config.num_hidden_layers = model.model.layers[:layers], layers
    engine = Engine()
    shared = engine.shared_base(model, AdapterConfig(name="lora")) if lora else None
    if shared is not None:
        shared.train(POLICY)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    prompts, responses = torch.randint(4, 500, (2, ROWS, LENGTH)).unbind()
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = Sequences(prompts, torch.ones_like(prompts), responses, torch.ones_like(responses))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        engine.policy(model, dtype, shared, POLICY if lora else None)(batch, 1.0)
    return sum(found.values()) / 4 / (ROWS * 2 * LENGTH)


def main() -> None:
    estimate = 12 * SHAPE["hidden_size"] + 3 * SHAPE["intermediate_size"]
    print(f"estimate: {estimate} a layer, {SHAPE['vocab_size']} a response token's head")
    with tempfile.TemporaryDirectory(prefix="align-bench-") as scratch:
        model = random_model(Path(scratch) / "model", SHAPE)
        for lora in (False, True):
            for dtype in (torch.float32, torch.bfloat16):
                one, two = (kept(model, layers, dtype, lora) for layers in (1, 2))
                name = f"{'LoRA' if lora else 'all weights'}, {str(dtype).removeprefix('torch.')}"
                print(f"{name}: {two - one:.0f} a layer, {2 * (2 * one - two):.0f} beside the layers a response token")


if __name__ == "__main__":
    main()
