"""The reference engine: log-probabilities, scores and samples by plain calls of transformers.

`engine=reference` runs on this file alone, and tests/engine/test_paths.py holds every fast path to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from align.engine.cache import NAMES, cache_name, pick_rows, seen_by
from align.engine.compat import attention_of
from align.engine.draws import Draws
from align.engine.inputs import autocast, forward_arguments, last_places, recomputing
from align.engine.layers import attention_layers
from align.engine.protocol import TokenStats
from align.errors import InputError
from align.functional.logprobs import token_logprobs
from align.functional.masked import zero_outside
from align.models.adapters import SharedBase, active
from align.types import Sequences

SHRINK_AT = 0.75  # share of live rows below which ended ones are cut out of the cache; copying the cache is not free


class Policy(nn.Module):
    """A causal LM in the roles that read its token distribution: its own weights, or an adapter on a shared base."""

    def __init__(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype,
        shared: SharedBase | None = None,
        adapter: str | None = None,
    ) -> None:
        """
        Args:
            dtype: Of compute; weights keep theirs.
            adapter: Its name on `shared`; None = the bare base.
        """
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.shared = shared
        self.adapter = adapter

    @property
    def model_config(self) -> PreTrainedConfig:
        """The transformer's own configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @contextmanager
    def active(self) -> Iterator[None]:
        """Switch to this role's adapter and precision; also around backward where activations are recomputed."""
        with active(self.shared, self.adapter), autocast(self.device, self.dtype):
            yield

    @property
    def whole(self) -> PreTrainedModel | PeftModel:
        """The model as another library's loop trains it: with its adapters where it has some."""
        return self.model if self.shared is None else self.shared.model

    @property
    def separate(self) -> bool:
        """Whether every weight is this role's own: no adapter on a shared base."""
        return self.shared is None

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer owns of this role, by name."""
        if self.shared is not None and self.adapter is not None:
            return self.shared.parameters(self.adapter)
        return dict(self.model.named_parameters())

    # Given responses -------------------------------------------------------------------------------------------------

    def logits(self, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
        """(B, keep, V) logits at the last `keep` positions, undivided by any temperature."""
        arguments = forward_arguments(self.model, attention_mask) | {"logits_to_keep": last_places(keep, input_ids)}
        with self.active(), recomputing(self.model):
            return self.model(input_ids=input_ids, use_cache=False, **arguments).logits

    def forward(self, batch: Sequences, temperature: float) -> TokenStats:
        """Log-probabilities and entropies of the responses' tokens, each given all before it."""
        ids, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]  # row t of the logits predicts token t
        logits = self.logits(ids, mask, batch.response_ids.shape[1])
        return TokenStats(token_logprobs(logits, batch.response_ids, temperature), logits, temperature)

    @torch.no_grad()
    def response_logprobs(self, batch: Sequences, temperature: float) -> Tensor:
        """(B, T) float32 log-probabilities of the responses' tokens, nats, 0 outside the mask; no gradient."""
        return zero_outside(self(batch, temperature).logprobs, batch.response_mask)

    def shared_tokens(self, prompt_mask: Tensor) -> Tensor:
        """(B,) prompt tokens of each row that are read once for all rows of that prompt in a micro-batch; here none."""
        return torch.zeros_like(prompt_mask.sum(1))

    # Sampling --------------------------------------------------------------------------------------------------------

    def for_sampling(self) -> Policy:
        """The form of this policy that one rollout is sampled from; here itself."""
        return self

    def prefill(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Cache]:
        """Next-token logits (B, V) after each left-padded prompt, and the cache that decoding goes on from."""
        return self.prefilled(input_ids, attention_mask, None)

    def prefilled(self, input_ids: Tensor, attention_mask: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """`prefill` into an empty cache; None = one of the model's own kind."""
        arguments = forward_arguments(self.model, attention_mask) | {"logits_to_keep": last_places(1, input_ids)}
        with self.active():
            logits, held = self.cached(input_ids, cache, **arguments)
        return logits[:, -1], held

    def decode(self, tokens: Tensor, attention_mask: Tensor, cache: Cache) -> Tensor:
        """Next-token logits (B, V) after one more token (B,); attention_mask (B, S) covers it already."""
        arguments = forward_arguments(self.model, attention_mask, last=1)
        arguments["attention_mask"] = seen_by(cache, attention_mask)
        with self.active():
            logits, _ = self.cached(tokens.unsqueeze(1), cache, logits_to_keep=1, **arguments)
        return logits[:, -1]

    def cached(self, input_ids: Tensor, cache: Cache | None, **arguments: Any) -> tuple[Tensor, Cache]:
        """Logits, and the cache with these tokens in it: the given one, or one of the model's own kind."""
        given = {} if cache is None else {cache_name(self.model) or NAMES[-1]: cache}
        out = self.model(input_ids=input_ids, use_cache=True, **given, **arguments)
        return out.logits, next(held for key in NAMES if (held := out.get(key)) is not None)

    def draw(self, draws: Draws, attention_mask: Tensor, cache: Cache, more: int, *, cuda_graphs: bool = True) -> None:
        """Draw up to `more` tokens of each live row behind the cache; rows that have ended leave the batch.

        Args:
            attention_mask: (B, S), of what the cache holds.
            cuda_graphs: Whether an engine may capture a step on a GPU; this one does not.
        """
        for done in range(more):
            going = draws.going
            left = int(going.sum())
            draws.look(done + 1, left)
            if left == 0:
                return
            if left <= SHRINK_AT * len(going):
                index = going.nonzero().squeeze(1)
                pick_rows(cache, index)
                draws.keep(index)
                attention_mask = attention_mask[index]
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(attention_mask), 1)], dim=1)
            draws.take(self.decode(draws.last, attention_mask, cache))

    # On disk ---------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write a model, or an adapter, that transformers or peft load alone (safetensors)."""
        if self.shared is not None:
            self.shared.save(folder)
        else:
            self.model.save_pretrained(folder)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Read the weights that `save` wrote, bit for bit."""
        if self.shared is not None:
            self.shared.restore(folder)
            return
        # Through from_pretrained, since what is on disk may be named, tied or sharded in another way than in memory.
        saved = type(self.model).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        self.model.load_state_dict(saved.state_dict())


class ValueHead(nn.Module):
    """A transformer body under a scalar head: one score per position, of the text up to and including it."""

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
        self.shared = shared
        self.adapter = adapter

    @property
    def model_config(self) -> PreTrainedConfig:
        """The transformer's own configuration."""
        return self.body.config

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @contextmanager
    def active(self) -> Iterator[None]:
        """Switch to this role's adapter and precision, as `Policy.active`."""
        with active(self.shared, self.adapter), autocast(self.device, self.dtype):
            yield

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer owns of this role, by name: the body or its adapter, and the head."""
        body = dict(self.body.named_parameters())
        if self.shared is not None and self.adapter is not None:
            body = self.shared.parameters(self.adapter)
        return body | {f"head.{name}": p for name, p in self.head.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def rescale(self, mean: float, std: float) -> None:
        """Fold (score - mean) / std into the head, in place."""
        self.head.bias.sub_(mean).div_(std)
        self.head.weight.div_(std)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S) float32 scores; those at padding mean nothing."""
        return self.scores(input_ids=input_ids, **forward_arguments(self.body, attention_mask))

    def scores(self, **arguments: Any) -> Tensor:
        """(B, S) float32 scores of what a forward pass of the body is given."""
        with self.active(), recomputing(self.body):
            hidden = self.body(use_cache=False, **arguments).last_hidden_state
        with torch.autocast(self.device.type, enabled=False):  # the head in fp32: scores of 1e-3 matter to advantages
            return self.head(hidden.float()).squeeze(-1)

    def prefix_scores(self, sequences: Sequences) -> Tensor:
        """(B, T + 1) float32 scores after the first 0 to T tokens of each response, of one forward pass."""
        start = sequences.prompt_ids.shape[1] - 1  # a prompt's last token scores the empty response
        return self(sequences.input_ids, sequences.attention_mask)[:, start:]

    def with_attention(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, S) and the last layer's attention, mean over heads: (B, S queries, S keys)."""
        layers = attention_layers(self.body)
        if not layers:
            raise InputError("reward.credit", type(self.body).__name__, "a reward model with attention layers")
        caught: list[Tensor] = []

        def catch(_module: nn.Module, _inputs: object, output: object) -> None:
            parts = output if isinstance(output, tuple) else ()
            caught.extend(x for x in parts if isinstance(x, Tensor) and x.dim() == 4)

        before = attention_of(self.body)
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
