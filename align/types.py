"""Types that flow between the stages of a run. One mask polarity everywhere: 1 = counts.

B = responses, P = longest prompt, T = longest response (both in tokens of the policy's tokenizer).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor

FINGERPRINT_BYTES = 16


def fingerprint_of(content: object) -> bytes:
    """Hash content of JSON's types; of other values the type alone counts."""
    said = json.dumps(content, default=lambda value: str(type(value))).encode()
    return hashlib.sha256(said).digest()[:FINGERPRINT_BYTES]


def asked(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the last user message; of the last message where there is none of a user."""
    users = [m["content"] for m in messages if m["role"] == "user"]
    return str(users[-1] if users else messages[-1]["content"])


@dataclass(frozen=True)
class Prompt:
    """One prompt, rendered once by the chat template."""

    id: int  # stable within the data set: noise and order are keyed by it
    messages: tuple[Mapping[str, Any], ...]  # {"role": ..., "content": ...} and what the template takes beside them
    text: str  # what a reward source reads: the last user message
    input_ids: tuple[int, ...]  # template applied, generation prompt included
    row: Mapping[str, Any]  # the data row as loaded
    tools: tuple[Any, ...] | None = None  # which the template describes to the model
    conversation: bool = False  # the data's own prompt was a list of messages, not a string

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        return len(self.input_ids)

    @property
    def fingerprint(self) -> bytes:
        """Return a hash of messages and tools."""
        return fingerprint_of([self.messages, self.tools])

    @property
    def row_fingerprint(self) -> bytes:
        """Return a hash of the row."""
        return fingerprint_of(self.row)

    def loaded(self) -> Prompt:
        """Return the prompt with everything in memory, from which others can be made by `replace`."""
        return self


@dataclass(frozen=True)
class Pair:
    """One preference: two responses to a prompt, each ending in exactly one end-of-turn token unless cut."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]

    def tokens(self, side: str) -> int:
        """Return the number of tokens of `chosen_ids` or `rejected_ids`."""
        return len(getattr(self, side))

    @property
    def fingerprint(self) -> bytes:
        """Return a hash of both texts."""
        return fingerprint_of(self.chosen) + fingerprint_of(self.rejected)

    def loaded(self) -> Pair:
        """Return the pair with everything in memory, from which others can be made by `replace`."""
        return self


@dataclass(frozen=True)
class Completion:
    """A given response to a prompt: a demonstration, or one with a label."""

    prompt: Prompt
    text: str
    ids: tuple[int, ...]  # end token last, unless cut
    label: bool = True  # whether it is desirable

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    @property
    def fingerprint(self) -> bytes:
        """Return a hash of the text."""
        return fingerprint_of(self.text)


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
                picked[name] = tensor[:, start:] if name in ("prompt_ids", "prompt_mask") else tensor[:, :stop]
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
class Size:
    """Size of a whole minibatch, which normalises the losses of its micro-batches."""

    rows: int  # responses, or pairs
    tokens: int  # of all responses that the loss counts


LEARNED = "learned"  # column (B,), 1 = a response that is learned from; without it all are
SCORED = "scored"  # column (B,), 1 = a response that has a score, and counts in baselines; without it all have


def masked_rows(mask: Tensor, columns: Mapping[str, Tensor], name: str = LEARNED) -> Tensor:
    """Return a response mask (B, T) without the rows that are not learned from, or have no score."""
    return mask if name not in columns else mask * columns[name].unsqueeze(1).to(mask.dtype)


@dataclass(frozen=True)
class Batch:
    """One micro-batch: sequences, what a loss reads beside the model's outputs on them, and the minibatch's size.

    Of n pairs the sequences are 2n, the chosen responses above the rejected ones.
    """

    sequences: Sequences
    columns: Mapping[str, Tensor]  # per token (B, T) or per response (B,), float
    size: Size

    @property
    def mask(self) -> Tensor:
        """(B, T) int64, 1 where a response's token counts."""
        return masked_rows(self.sequences.response_mask, self.columns)


@dataclass(frozen=True)
class Experience:
    """A rollout with everything that the updates on it read."""

    rollout: Rollout
    columns: Mapping[str, Tensor]  # per token (B, T) or per response (B,), float
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the rollout, repeated in every update's record

    @property
    def lengths(self) -> Tensor:
        """(B,) prompt and response tokens."""
        return self.rollout.attention_mask.sum(1)

    @property
    def response_tokens(self) -> Tensor:
        """(B,) response tokens that are learned from."""
        return masked_rows(self.rollout.response_mask, self.columns).sum(1)

    @property
    def prompts(self) -> tuple[Tensor, Tensor]:
        """(B,) prompt of each row and the prompts' mask (B, P)."""
        return self.rollout.prompt_index, self.rollout.prompt_mask

    def rows(self, index: Tensor, size: Size) -> Batch:
        """The rows that `index` (m,) names, with padding that none of them needs cut away."""
        rollout = self.rollout.rows(index)
        width = rollout.response_ids.shape[1]
        columns = {k: v[index, :width] if v.dim() == 2 else v[index] for k, v in self.columns.items()}
        return Batch(rollout, columns, size)

    def describe(self, index: Tensor, decode: Callable[[Sequence[int]], str]) -> list[dict[str, Any]]:
        """Prompt and text of the responses that `index` (m,) names."""
        rollout = self.rollout.rows(index)
        rows = zip(rollout.prompt_index.tolist(), rollout.response_ids.tolist(), rollout.lengths.tolist(), strict=True)
        return [{"prompt_id": prompt, "response": decode(ids[:n])} for prompt, ids, n in rows]

    def tensors(self) -> dict[str, Tensor]:
        """Rollout and columns by name, for safetensors."""
        rollout = {f"rollout.{name}": tensor for name, tensor in self.rollout.tensors().items()}
        return rollout | {f"column.{name}": tensor for name, tensor in self.columns.items()}

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], metrics: Mapping[str, float]) -> Experience:
        """The experience that `tensors` came from."""
        rollout = {k.removeprefix("rollout."): v for k, v in tensors.items() if k.startswith("rollout.")}
        columns = {k.removeprefix("column."): v for k, v in tensors.items() if k.startswith("column.")}
        return cls(Rollout(**rollout), columns, metrics)


@dataclass(frozen=True)
class TrainerState:
    """Place of a training, under the names that transformers' and TRL's trainers give it."""

    global_step: int  # optimizer updates applied
    max_steps: int


@dataclass(frozen=True)
class RewardInput:
    """Input of a reward source: a batch of responses with their prompts."""

    prompts: Sequence[str]  # Prompt.text
    responses: Sequence[str]  # decoded without special tokens
    rollout: Rollout  # ids and masks
    offsets: Tensor  # (B, T, 2) int64: characters [start, end) of responses[i] that a token stands for; 0, 0 on padding
    rows: Sequence[Mapping[str, Any]]  # the data row of each prompt
    messages: Sequence[Sequence[Mapping[str, Any]]]  # Prompt.messages: the whole conversation before the response
    conversations: Sequence[bool]  # Prompt.conversation
    training: TrainerState | None = None  # None = not of a training's rollout: an evaluation, a scale, a probe


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
    # (B,) bool, False = the source does not apply to this response: its total is NaN, and it is not learned from. A
    # part may be NaN where another applies. None = the source and its parts apply to all.
    applies: Tensor | None = None
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # noted by a function beside each response
    logged: Mapping[str, Sequence[float]] = field(default_factory=dict)  # noted by a function, of the batch
    # Added by rewards/signals.py for a credit scheme, for any source:
    sentence_ends: Tensor | None = None  # (B, T), 1 = a sentence or line ends with this token
    log_ratio: Tensor | None = None  # (B, T): log pi_dpo - log pi_ref of a token, nats

    @property
    def scored(self) -> Tensor:
        """Return which responses have a score: (B,) bool."""
        return torch.ones_like(self.total, dtype=torch.bool) if self.applies is None else self.applies
