"""A causal LM in the roles that read its token distribution: policy and reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from align.engine.cache import NAMES, cache_name, growing_cache
from align.engine.fast.captured import FixedDecoder
from align.engine.fast.cpu_attention import reads_packed
from align.engine.fast.decoding import decoding_copy
from align.engine.fast.packed_rows import Packed, in_place
from align.engine.fast.sampling_copy import sampling_copy
from align.engine.inputs import autocast, forward_arguments, recomputing, shared_from, shared_prompts
from align.functional.logprobs import entropy, token_logprobs
from align.functional.masked import zero_outside
from align.models.adapters import SharedBase, active
from align.types import Sequences


@dataclass(frozen=True)
class TokenStats:
    """Of given response tokens, at a temperature."""

    logprobs: Tensor  # (B, T) float32, nats; they mean something where a response's mask is 1
    logits: Tensor  # (B, T, V), undivided by the temperature; (M, V) if they are of the tokens in `where` alone
    temperature: float
    where: Tensor | None = None  # (B, T) bool, M of them True

    @property
    def entropy(self) -> Tensor:
        """(B, T) float32, nats, of the distribution each token was drawn from; no gradient. Computed when asked for."""
        with torch.no_grad():
            found = entropy(self.logits, self.temperature)
            return found if self.where is None else in_place(found, self.where)


class Policy(nn.Module):
    """One role's view of a causal LM: its own weights, or an adapter (None = the bare base) on a shared one."""

    def __init__(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype,
        shared: SharedBase | None = None,
        adapter: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype  # of compute; weights keep theirs
        self._shared = shared
        self._adapter = adapter

    @property
    def model_config(self) -> PreTrainedConfig:
        """The transformer's own configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @contextmanager
    def active(self) -> Iterator[None]:
        """This role's adapter and precision; wrap forward *and* backward in it when gradients are checkpointed."""
        with active(self._shared, self._adapter), autocast(self.device, self.dtype):
            yield

    @property
    def whole(self) -> PreTrainedModel | PeftModel:
        """The model as another library's loop trains it: with its adapters where it has some."""
        return self.model if self._shared is None else self._shared.model

    @property
    def separate(self) -> bool:
        """Whether every weight is this role's own: no adapter on a shared base."""
        return self._shared is None

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer owns of this role, by name."""
        if self._shared is not None and self._adapter is not None:
            return self._shared.parameters(self._adapter)
        return dict(self.model.named_parameters())

    def logits(self, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
        """(B, keep, V) logits at the last `keep` positions, undivided by any temperature."""
        arguments = forward_arguments(self.model, attention_mask)
        with self.active(), recomputing(self.model):
            kept = _last(keep, input_ids)
            return self.model(input_ids=input_ids, use_cache=False, logits_to_keep=kept, **arguments).logits

    def forward(self, batch: Sequences, temperature: float) -> TokenStats:
        """Log-probabilities and entropies of the responses' tokens, each given all before it."""
        logits, where = self._response_logits(batch)
        if where is None:
            return TokenStats(token_logprobs(logits, batch.response_ids, temperature), logits, temperature)
        logp = token_logprobs(logits, batch.response_ids[where], temperature)
        return TokenStats(in_place(logp, where), logits, temperature, where)

    @torch.no_grad()
    def response_logprobs(self, batch: Sequences, temperature: float) -> Tensor:
        """(B, T) float32 log-probabilities of the responses' tokens, nats, 0 outside the mask; no gradient."""
        return zero_outside(self(batch, temperature).logprobs, batch.response_mask)

    def shared_tokens(self, prompt_mask: Tensor) -> Tensor:
        """(B,) prompt tokens of each row that are read once for all rows of that prompt in a micro-batch; 0 = none."""
        lengths = prompt_mask.sum(1)
        if self.model.is_activation_checkpointing and not reads_packed(self.model):  # a cache would not survive it
            return torch.zeros_like(lengths)
        return lengths.masked_fill(lengths < shared_from(prompt_mask), 0)

    def _response_logits(self, batch: Sequences) -> tuple[Tensor, Tensor | None]:
        """(B, T, V): row t predicts response token t. Or (M, V), and which M of the B x T tokens these predict.

        A prompt that several rows begin with is read once, and padding not at all, where the model can.
        """
        length = batch.response_ids.shape[1]
        shared = shared_prompts(batch)
        packed = Packed.of_responses(batch, shared) if reads_packed(self.model) else None
        if packed is not None:
            return self._packed_logits(packed, batch.response_mask), batch.response_mask.bool()
        recomputed = torch.is_grad_enabled() and self.model.is_activation_checkpointing  # as above
        cache = None if shared is None or recomputed else growing_cache(self.model)
        if shared is None or cache is None:
            return self.logits(batch.input_ids[:, :-1], batch.attention_mask[:, :-1], length), None
        ids, mask, which = shared
        start = ids.shape[1] - 1  # a prompt's last token predicts its rows' first ones, and is read with them
        with self.active():
            arguments = forward_arguments(self.model, mask[:, :start])
            self._cached(ids[:, :start], cache, logits_to_keep=_last(1, ids), **arguments)
            cache.batch_select_indices(which)
            arguments = forward_arguments(self.model, batch.attention_mask[:, :-1], last=length)
            return self._cached(batch.input_ids[:, start:-1], cache, **arguments)[0], None

    def _packed_logits(self, packed: Packed, predicted: Tensor) -> Tensor:
        """(M, V), of the tokens that the mask `predicted` (B, T) picks."""
        with self.active(), recomputing(self.model):
            kept = packed.places(predicted)
            return self.model(**packed.arguments(), use_cache=False, logits_to_keep=kept).logits.squeeze(0)

    def _cached(self, input_ids: Tensor, cache: Cache | None, **arguments: Any) -> tuple[Tensor, Cache]:
        """Logits, and the cache with what was read: the given one, or the model's own kind where there is none yet."""
        given = {} if cache is None else {cache_name(self.model) or NAMES[-1]: cache}
        out = self.model(input_ids=input_ids, use_cache=True, **given, **arguments)
        return out.logits, next(held for key in NAMES if (held := out.get(key)) is not None)

    def for_sampling(self) -> Policy:
        """This policy as it is now, in the form that is fastest at many small forward passes without gradients.

        Mostly a copy of its products' weights; itself where there is nothing to gain. It lasts for one rollout.
        """
        if (copy := decoding_copy(self.model, self.dtype, self._adapter)) is not None:
            return Policy(copy, self.dtype)
        if self._shared is None:
            copy = sampling_copy(self.model, self.dtype)
            return self if copy is self.model else Policy(copy, self.dtype)
        if self._adapter is None:
            return self
        with torch.no_grad(), self.active():
            merged = self._shared.merged(self._adapter)
        return self if merged is None else Policy(sampling_copy(merged, self.dtype, own=True), self.dtype)

    def prefill(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Cache]:
        """Next-token logits (B, V) after each left-padded prompt, and the cache that decoding goes on from."""
        arguments = forward_arguments(self.model, attention_mask)
        with self.active():
            logits, cache = self._cached(
                input_ids, growing_cache(self.model), logits_to_keep=_last(1, input_ids), **arguments
            )
        return logits[:, -1], cache

    def decode(self, tokens: Tensor, attention_mask: Tensor, cache: Cache) -> Tensor:
        """Next-token logits (B, V) after one more token (B,); attention_mask (B, S) covers it already."""
        arguments = forward_arguments(self.model, attention_mask, last=1)
        with self.active():
            logits, _ = self._cached(tokens.unsqueeze(1), cache, logits_to_keep=1, **arguments)
        return logits[:, -1]

    @contextmanager
    def decoding(self, cache: Cache, attention_mask: Tensor, more: int) -> Iterator[FixedDecoder]:
        """`decode` for up to `more` tokens of rows (B, S) in the cache, on tensors that stay where they are."""

        def forward(tokens: Tensor, held: Cache, **arguments: Tensor) -> Tensor:
            return self._cached(tokens, held, logits_to_keep=1, **arguments)[0]

        with self.active():
            yield FixedDecoder(forward, cache, attention_mask, more, self.dtype)

    def save(self, folder: Path) -> None:
        """A model, or an adapter, that transformers or peft load alone (safetensors)."""
        if self._shared is not None:
            self._shared.save(folder)
        else:
            self.model.save_pretrained(folder)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """The weights that `save` wrote, bit for bit."""
        if self._shared is not None:
            self._shared.restore(folder)
            return
        # Through from_pretrained, since what is on disk may be named, tied or sharded in another way than in memory.
        saved = type(self.model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        self.model.load_state_dict(saved.state_dict())


def _last(n: int, like: Tensor) -> Tensor:
    """Indices of the last n positions. Indices copy the states they pick, and the head is one product for all rows.

    A number would be a slice, whose rows do not lie side by side: where no gradient is taken torch multiplies row by
    row then, in bf16 on CPUs with a copy of the head's weights for each (`should_fold`, ATen/native/LinearAlgebra.cpp).
    """
    return torch.arange(-n, 0, device=like.device)
