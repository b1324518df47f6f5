"""What the rest of the code relies on in an engine: log-probabilities and samples of a policy, scores of prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache

from align.engine.draws import Draws
from align.functional.logprobs import entropy
from align.functional.masked import scattered
from align.types import Sequences


@dataclass(frozen=True)
class TokenStats:
    """Log-probabilities of given response tokens at a temperature, and the logits behind them."""

    logprobs: Tensor  # (B, T) float32, nats; defined where the response's mask is 1
    logits: Tensor  # (B, T, V), undivided by the temperature; (M, V) where an engine predicts the tokens `where` alone
    temperature: float
    where: Tensor | None = None  # (B, T) bool, M of them True

    @property
    def entropy(self) -> Tensor:
        """(B, T) float32, nats, of the distribution behind each token; without gradient, computed at every access."""
        with torch.no_grad():
            found = entropy(self.logits, self.temperature)
            return found if self.where is None else scattered(found, self.where)


class LanguageModel(Protocol):
    """A token distribution that can be read and sampled from: `reference.Policy` defines what each method returns."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, batch: Sequences, temperature: float) -> TokenStats: ...

    def response_logprobs(self, batch: Sequences, temperature: float) -> Tensor: ...

    def for_sampling(self) -> LanguageModel: ...

    def prefill(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Cache]: ...

    def draw(self, draws: Draws, attention_mask: Tensor, cache: Cache, more: int, *, cuda_graphs: bool) -> None: ...


class PrefixScorer(Protocol):
    """One score per prefix of a text: `reference.ValueHead` defines what each method returns."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor: ...

    def prefix_scores(self, sequences: Sequences) -> Tensor: ...

    def with_attention(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]: ...
