"""Types that flow between the stages of a run. One mask polarity everywhere: 1 = counts.

B = responses, P = longest prompt, T = longest response (both in tokens of the policy's tokenizer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """One prompt, rendered once by the chat template."""

    id: int  # stable within the data set: noise and order are keyed by it
    messages: tuple[Mapping[str, str], ...]  # {"role": ..., "content": ...}
    text: str  # what a reward source reads: the last user message
    input_ids: tuple[int, ...]  # template applied, generation prompt included
    row: Mapping[str, Any]  # the data row as loaded


@dataclass(frozen=True)
class Pair:
    """One preference: two responses to a prompt, each ending in exactly one end-of-turn token unless cut."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]


_PROMPT_SIDE = ("prompt_ids", "prompt_mask")


@dataclass(frozen=True)
class Sequences:
    """Prompts with a response each. Row i is `prompt_ids[i] + response_ids[i]`, left-padded and right-padded."""

    prompt_ids: Tensor  # (B, P) int64
    prompt_mask: Tensor  # (B, P) int64, 1 = counts
    response_ids: Tensor  # (B, T) int64
    response_mask: Tensor  # (B, T) int64, 1 up to and including the first end token

    @property
    def input_ids(self) -> Tensor:
        """Return the token ids (B, P + T) int64."""
        return torch.cat([self.prompt_ids, self.response_ids], dim=1)

    @property
    def attention_mask(self) -> Tensor:
        """Return the mask (B, P + T) int64."""
        return torch.cat([self.prompt_mask, self.response_mask], dim=1)

    @property
    def lengths(self) -> Tensor:
        """Return the response lengths (B,) in tokens, end token included."""
        return self.response_mask.sum(dim=1)

    def __len__(self) -> int:
        return self.prompt_ids.shape[0]

    def rows(self, index: Tensor) -> Self:
        """Return the rows of `index` (n,), without padding that none of them needs."""
        picked = {name: tensor[index] for name, tensor in self.tensors().items()}
        start = self.prompt_mask.shape[1] - int(picked["prompt_mask"].sum(1).max())
        stop = int(picked["response_mask"].sum(1).max())
        for name, tensor in picked.items():
            if tensor.dim() == 2:
                picked[name] = tensor[:, start:] if name in _PROMPT_SIDE else tensor[:, :stop]
        return type(self)(**picked)

    def tensors(self) -> dict[str, Tensor]:
        """Return every field by name, for safetensors."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Rollout(Sequences):
    """Responses sampled from the policy."""

    ended: Tensor  # (B,) bool, False = cut at the length limit
    prompt_index: Tensor  # (B,) int64, Prompt.id
    sample_index: Tensor  # (B,) int64, which of the responses to that prompt
    sampling_logprobs: Tensor  # (B, T) float32, nats, at the sampling temperature, 0 where the mask is 0


@dataclass(frozen=True)
class Experience:
    """A rollout with the inputs of its updates; `columns` hold per-token (B, T) or per-response (B,) floats."""

    rollout: Rollout
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, index: Tensor) -> Experience:
        """Return the rows of `index` (n,), as `Sequences.rows`."""
        rollout = self.rollout.rows(index)
        width = rollout.response_ids.shape[1]
        columns = {k: v[index, :width] if v.dim() == 2 else v[index] for k, v in self.columns.items()}
        return Experience(rollout, columns)


@dataclass(frozen=True)
class RewardInput:
    """Input of a reward source: a batch of responses with their prompts."""

    prompts: Sequence[str]  # Prompt.text
    responses: Sequence[str]  # decoded without special tokens
    rollout: Rollout  # ids and masks
    offsets: Tensor  # (B, T, 2) int64: characters [start, end) of responses[i] that a token stands for; 0, 0 on padding
    rows: Sequence[Mapping[str, Any]]  # the data row of each prompt
    messages: Sequence[Sequence[Mapping[str, str]]]  # Prompt.messages: the whole conversation before the response


@dataclass(frozen=True)
class RewardOutput:
    """A score per response, and any finer signals of the source (None where it offers none)."""

    total: Tensor  # (B,) float32
    # {name: (B,)}: parts of the score. They sum to the score, except for an ensemble's members and where the whole is
    # normalised or clipped.
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    token_scores: Tensor | None = None  # (B, T) scores per token, summing to total: the source's own credit
    prefix_scores: Tensor | None = None  # (B, T + 1): score of the first 0..T response tokens, on total's scale
    attention: Tensor | None = None  # (B, T) >= 0: the last token's attention over the response (ABC)
    spans: Sequence[Sequence[tuple[int, int, float]]] | None = None  # per response: (start char, end char, score)
    raw_total: Tensor | None = None  # (B,): total before it was normalised and clipped; None = it was not
    raw_parts: Mapping[str, Tensor] = field(default_factory=dict)  # the parts before normalisation, clip and weight
    # Added by rewards/signals.py for a credit scheme, for any source:
    sentence_ends: Tensor | None = None  # (B, T), 1 = a sentence or line ends with this token
    log_ratio: Tensor | None = None  # (B, T): log pi_dpo - log pi_ref of a token, nats
