"""Perplexity at temperature 1, of given responses and of plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from align.data.collate import Row, collate
from align.engine.reference import Policy
from align.functional.batching import token_batches
from align.functional.masked import masked_sum
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Pair

LOGIT_ELEMENTS = 2**27  # most logits (positions times vocabulary) in one forward pass: 0.5 GB in fp32
MAX_TEXT_TOKENS = 512  # most tokens of a general text; the rest is cut


def micro_batches(lengths: Tensor, vocabulary: int, rows: int) -> list[Tensor]:
    """Split rows (n,), sorted by length, into index groups of at most `rows` rows and LOGIT_ELEMENTS logits."""
    groups = token_batches(lengths, max(1, LOGIT_ELEMENTS // vocabulary))
    return [part for group in groups for part in group.split(rows)]


def response_perplexity(policy: Policy, chat: ChatTokenizer, pairs: Sequence[Pair], batch_size: int) -> float | None:
    """Compute the perplexity of the chosen responses, end token included: exp(-mean log-probability per token).

    Every token has the same weight, whatever its response. None where there are no tokens.

    Args:
        batch_size: Most sequences per forward pass.
    """
    return _perplexity(policy, chat, [(p.prompt.input_ids, p.chosen_ids) for p in pairs], batch_size)


def text_perplexity(policy: Policy, chat: ChatTokenizer, texts: Sequence[str], batch_size: int) -> float | None:
    """Compute the perplexity of plain text, without chat template, over every token after the first.

    The tokenizer adds its own special tokens (a Llama tokenizer's BOS is the first token, which is not scored).
    """
    limit = min(MAX_TEXT_TOKENS, getattr(policy.model.config, "max_position_embeddings", None) or MAX_TEXT_TOKENS)
    encoded = [chat.tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    return _perplexity(policy, chat, [(ids[:1], ids[1:]) for ids in encoded], batch_size)


def _perplexity(policy: Policy, chat: ChatTokenizer, rows: Sequence[Row], batch_size: int) -> float | None:
    rows = [row for row in rows if len(row[0]) and len(row[1])]
    count = sum(len(target) for _, target in rows)
    if not count:
        return None
    lengths = torch.tensor([len(context) + len(target) for context, target in rows])
    total = 0.0
    for index in micro_batches(lengths, policy.model.config.get_text_config().vocab_size, batch_size):
        total += _log_likelihood(policy, [rows[i] for i in index.tolist()], chat.pad_id)
    mean = -total / count
    return math.exp(mean) if mean < 700 else math.inf  # exp would raise on overflow


@torch.no_grad()
def _log_likelihood(policy: Policy, rows: Sequence[Row], pad_id: int) -> float:
    """Sum the log-probabilities of the targets given their contexts, nats."""
    batch = collate(rows, pad_id, policy.device)
    return float(masked_sum(policy.response_logprobs(batch, 1.0).double(), batch.response_mask))
