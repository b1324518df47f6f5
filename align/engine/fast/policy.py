"""The fast engine's policy: the reference's numbers by the paths that apply to its model."""

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from align.engine.draws import Draws
from align.engine.fast import captured, decoding, packed_rows, roomy_cache, sampling_copy, shared_prompts
from align.engine.fast.captured import FixedDecoder
from align.engine.fast.limits import Limits
from align.engine.fast.packed_rows import Packed
from align.engine.fast.roomy_cache import growing_cache
from align.engine.inputs import forward_arguments, last_places, recomputing
from align.engine.protocol import TokenStats
from align.engine.reference import Policy
from align.functional.logprobs import token_logprobs
from align.functional.masked import scattered
from align.models.adapters import SharedBase
from align.types import Sequences

Prompts = tuple[Tensor, Tensor, Tensor]  # of shared_prompts.shared_prompts


class FastPolicy(Policy):
    """Reads shared prompts once and no padding, and samples from a copy, by captured steps; each where it applies."""

    def __init__(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype,
        shared: SharedBase | None = None,
        adapter: str | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(model, dtype, shared, adapter)
        self.limits = limits or Limits()

    def shared_tokens(self, prompt_mask: Tensor) -> Tensor:
        """(B,) prompt tokens of each row that are read once for all rows of that prompt in a micro-batch; 0 = none."""
        lengths = prompt_mask.sum(1)
        if shared_prompts.why_not(self.model) is not None:
            return torch.zeros_like(lengths)
        return lengths.masked_fill(lengths < shared_prompts.shared_from(prompt_mask, self.limits), 0)

    def forward(self, batch: Sequences, temperature: float) -> TokenStats:
        shared = shared_prompts.shared_prompts(batch, self.limits)
        if shared is not None and shared_prompts.why_not(self.model) is not None:
            shared = None
        packed = Packed.of_responses(batch, shared) if packed_rows.why_not(self.model) is None else None
        if packed is not None:
            return self._packed(packed, batch, temperature)
        cache = None if shared is None else growing_cache(self.model)
        if shared is None or cache is None:
            return super().forward(batch, temperature)
        logits = self._behind(shared, cache, batch)
        return TokenStats(token_logprobs(logits, batch.response_ids, temperature), logits, temperature)

    def _packed(self, packed: Packed, batch: Sequences, temperature: float) -> TokenStats:
        """Stats of the tokens that count, from one row of tokens."""
        where = batch.response_mask.bool()
        with self.active(), recomputing(self.model):
            kept = packed.places(batch.response_mask)
            logits = self.model(**packed.arguments(), use_cache=False, logits_to_keep=kept).logits.squeeze(0)
        logp = token_logprobs(logits, batch.response_ids[where], temperature)
        return TokenStats(scattered(logp, where), logits, temperature, where)

    def _behind(self, shared: Prompts, cache: Cache, batch: Sequences) -> Tensor:
        """(B, T, V) logits of the responses, read behind a cache of the different prompts."""
        ids, mask, which = shared
        start, length = ids.shape[1] - 1, batch.response_ids.shape[1]
        # A prompt's last token predicts its rows' first ones, and is read with them.
        with self.active():
            arguments = forward_arguments(self.model, mask[:, :start])
            self.cached(ids[:, :start], cache, logits_to_keep=last_places(1, ids), **arguments)
            cache.batch_select_indices(which)
            arguments = forward_arguments(self.model, batch.attention_mask[:, :-1], last=length)
            return self.cached(batch.input_ids[:, start:-1], cache, **arguments)[0]

    def for_sampling(self) -> Policy:
        """A copy of the products' weights for one rollout; itself where a copy gains nothing."""
        model, dtype, shared, adapter = self.model, self.dtype, self.shared, self.adapter
        if decoding.why_not(model, dtype) is None:
            copy = decoding.decoding_copy(model, dtype, adapter, self.limits)
        elif sampling_copy.why_not(model, dtype, shared, adapter) is not None:
            return self
        elif shared is None or adapter is None:
            copy = sampling_copy.sampling_copy(model, dtype)
        else:
            with torch.no_grad(), self.active():
                copy = sampling_copy.merged_copy(model, dtype, shared, adapter)
        return FastPolicy(copy, dtype, limits=self.limits)

    def prefill(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Cache]:
        if roomy_cache.why_not(self.model) is not None:
            return super().prefill(input_ids, attention_mask)
        return self.prefilled(input_ids, attention_mask, growing_cache(self.model, self.limits.room))

    def draw(self, draws: Draws, attention_mask: Tensor, cache: Cache, more: int, *, cuda_graphs: bool = True) -> None:
        if more == 0 or not cuda_graphs or captured.why_not(self.model) is not None:
            super().draw(draws, attention_mask, cache, more)
            return
        with self.active():
            decoder = FixedDecoder(self.step, cache, attention_mask, more, self.dtype)
            captured.replay(decoder, draws, more, self.device, self.limits)

    def step(self, tokens: Tensor, cache: Cache, **arguments: Tensor) -> Tensor:
        """(B, 1, V) logits after one more token (B, 1) of each row; call it inside `active`."""
        return self.cached(tokens, cache, logits_to_keep=1, **arguments)[0]
