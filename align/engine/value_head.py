"""A transformer body under a scalar head, in the roles that put one number on every prefix: critic and reward model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from align.engine.fast.cpu_attention import reads_packed
from align.engine.fast.packed_rows import Packed, in_place
from align.engine.inputs import autocast, forward_arguments, recomputing
from align.errors import InputError
from align.models.adapters import SharedBase, active


def zero_head(width: int) -> nn.Linear:
    """A head that scores everything 0: a critic that does not disturb the first advantages."""
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class ValueHead(nn.Module):
    """(input_ids, attention_mask) -> one score per position, of the text up to and including it."""

    def __init__(
        self,
        body: PreTrainedModel,
        head: nn.Linear,
        dtype: torch.dtype,
        shared: SharedBase | None = None,
        adapter: str | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.dtype = dtype
        self._shared = shared
        self._adapter = adapter

    @property
    def model_config(self) -> PreTrainedConfig:
        """The transformer's own configuration."""
        return self.body.config

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @contextmanager
    def active(self) -> Iterator[None]:
        with active(self._shared, self._adapter), autocast(self.device, self.dtype):
            yield

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer owns of this role, by name: the body or its adapter, and the head."""
        body = dict(self.body.named_parameters())
        if self._shared is not None and self._adapter is not None:
            body = self._shared.parameters(self._adapter)
        return body | {f"head.{name}": p for name, p in self.head.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def rescale(self, mean: float, std: float) -> None:
        """Fold (score - mean) / std into the head, in place."""
        self.head.bias.sub_(mean).div_(std)
        self.head.weight.div_(std)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S) float32 scores; those at padding mean nothing."""
        packed = Packed.of_rows_alone(input_ids, attention_mask) if reads_packed(self.body) else None
        if packed is None:
            arguments = {"input_ids": input_ids, **forward_arguments(self.body, attention_mask)}
        else:
            arguments = packed.arguments()
        with self.active(), recomputing(self.body):
            hidden = self.body(use_cache=False, **arguments).last_hidden_state
        with torch.autocast(self.device.type, enabled=False):  # the head in fp32: scores of 1e-3 matter to advantages
            scores = self.head(hidden.float()).squeeze(-1)
            return scores if packed is None else in_place(scores.squeeze(0), attention_mask.bool())

    def with_attention(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, S) and the last layer's attention, mean over heads: (B, S queries, S keys)."""
        layers = [m for m in self.body.modules() if type(m).__name__.endswith("Attention")]
        if not layers:
            raise InputError("reward.credit", type(self.body).__name__, "a reward model with attention layers")
        caught: list[Tensor] = []

        def catch(_module: nn.Module, _inputs: object, output: object) -> None:
            parts = output if isinstance(output, tuple) else ()
            caught.extend(x for x in parts if isinstance(x, Tensor) and x.dim() == 4)

        before = self.body.config._attn_implementation
        handle = layers[-1].register_forward_hook(catch)
        self.body.set_attn_implementation("eager")  # fused kernels never form the weights
        try:
            scores = self(input_ids, attention_mask)
        finally:
            handle.remove()
            self.body.set_attn_implementation(before)
        if not caught:
            raise InputError("reward.credit", type(self.body).__name__, "a reward model whose last layer returns them")
        return scores, caught[0].float().mean(1)
