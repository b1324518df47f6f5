"""Forgetting: perplexity of general text, over all passages and by their kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from align.activity import Activity
from align.data.collate import collate
from align.data.texts import Text
from align.engine.reference import Policy
from align.evaluation.intervals import Bootstrap, perplexity_of
from align.evaluation.likelihood import micro_batches
from align.functional.masked import masked_sum
from align.models.chat_tokenizer import ChatTokenizer

MAX_TEXT_TOKENS = 512  # most tokens of a general text; the rest is cut, and the text counted


@dataclass(frozen=True)
class Passage:
    """A general text in the policy's tokens."""

    input_ids: tuple[int, ...]
    kind: str | None  # None where the data say none
    cut: bool  # whether it was longer

    @property
    def scored(self) -> int:
        """Return the number of tokens that are predicted: all after the first."""
        return max(0, len(self.input_ids) - 1)


def passages(texts: Sequence[Text], chat: ChatTokenizer, *, longest: int | None) -> list[Passage]:
    """Encode plain texts, without chat template, in at most `longest` tokens, the model's context (None = no limit).

    The tokenizer adds its own special tokens (a Llama tokenizer's BOS is the first token, which is not scored).
    """
    limit = min(MAX_TEXT_TOKENS, longest or MAX_TEXT_TOKENS)
    found = []
    for text in texts:
        ids = chat.tokenizer(text.text)["input_ids"]
        kept = ids if len(ids) <= limit else chat.tokenizer(text.text, truncation=True, max_length=limit)["input_ids"]
        found.append(Passage(tuple(kept), text.kind, len(ids) > limit))
    return found


def forgetting(
    policy: Policy,
    chat: ChatTokenizer,
    texts: Sequence[Passage],
    batch_size: int,
    interval: Bootstrap,
    activity: Activity | None = None,
) -> dict[str, Any]:
    """Compute the perplexity over every token after the first, with bootstrap intervals over passages.

    Returns:
        `forgetting_perplexity` of all (None where there are no tokens) and its interval; `forgetting_by_kind` and the
        ends of its intervals, by kind, where the passages have kinds.
    """
    scored = [text for text in texts if text.scored]
    if not scored:
        return {"forgetting_perplexity": None}
    nats = _nats(policy, chat, scored, batch_size, activity or Activity())
    found: dict[str, Any] = _perplexity("forgetting_perplexity", scored, nats, interval)
    for kind in sorted({text.kind for text in scored if text.kind is not None}):
        index = [i for i, text in enumerate(scored) if text.kind == kind]
        own = _perplexity("forgetting_by_kind", [scored[i] for i in index], nats[index], interval)
        for name, value in own.items():
            found.setdefault(name, {})[kind] = value
    return found


def _perplexity(name: str, texts: Sequence[Passage], nats: Tensor, interval: Bootstrap) -> dict[str, float | None]:
    tokens = torch.tensor([text.scored for text in texts])
    return interval.ratio(name, nats, tokens, range(len(texts)), perplexity_of)


@torch.no_grad()
def _nats(policy: Policy, chat: ChatTokenizer, texts: Sequence[Passage], batch_size: int, activity: Activity) -> Tensor:
    """Compute the negative log-probability of each passage after its first token: (n,) float64."""
    rows = [(text.input_ids[:1], text.input_ids[1:]) for text in texts]
    lengths = torch.tensor([len(text.input_ids) for text in texts])
    nats = torch.zeros(len(rows), dtype=torch.float64)
    parts = micro_batches(lengths, policy.model.config, batch_size)
    for index in activity.over(parts, "general texts read", len(rows)):
        batch = collate([rows[i] for i in index.tolist()], chat.pad_id, policy.device)
        logprobs = policy.response_logprobs(batch, 1.0).double()
        nats[index] = -masked_sum(logprobs, batch.response_mask, dim=1).cpu()
    return nats
