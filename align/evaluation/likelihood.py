"""Perplexity of given texts; KL to the reference and entropy on responses that the policy sampled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.activity import Activity
from align.data.collate import Row, collate
from align.engine.reference import Policy
from align.functional.batching import token_batches
from align.functional.kl import k1, k3
from align.functional.masked import masked_sum
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Pair, Rollout

LOGIT_ELEMENTS = 2**27  # most logits (positions times vocabulary) in one forward pass: 0.5 GB in fp32
MAX_TEXT_TOKENS = 512  # most tokens of a general text; the rest is cut


def micro_batches(lengths: Tensor, vocabulary: int, rows: int) -> list[Tensor]:
    """Split rows (n,), sorted by length, into index groups of at most `rows` rows and LOGIT_ELEMENTS logits."""
    groups = token_batches(lengths, max(1, LOGIT_ELEMENTS // vocabulary))
    return [part for group in groups for part in group.split(rows)]


def response_perplexity(
    policy: Policy, chat: ChatTokenizer, pairs: Sequence[Pair], batch_size: int, activity: Activity | None = None
) -> float | None:
    """Compute the perplexity of the chosen responses, end token included: exp(-mean log-probability per token).

    Temperature 1; every token has the same weight, whatever its response. None where there are no tokens.
    """
    rows = [(p.prompt.input_ids, p.chosen_ids) for p in pairs]
    return _perplexity(policy, chat, rows, batch_size, activity, "held-out responses read")


def text_perplexity(
    policy: Policy, chat: ChatTokenizer, texts: Sequence[str], batch_size: int, activity: Activity | None = None
) -> float | None:
    """Compute the perplexity of plain text, without chat template, over every token after the first.

    The tokenizer adds its own special tokens (a Llama tokenizer's BOS is the first token, which is not scored).
    """
    limit = min(MAX_TEXT_TOKENS, getattr(policy.model.config, "max_position_embeddings", None) or MAX_TEXT_TOKENS)
    encoded = [chat.tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    rows = [(ids[:1], ids[1:]) for ids in encoded]
    return _perplexity(policy, chat, rows, batch_size, activity, "general texts read")


def _perplexity(
    policy: Policy, chat: ChatTokenizer, rows: Sequence[Row], batch_size: int, activity: Activity | None, what: str
) -> float | None:
    rows = [row for row in rows if len(row[0]) and len(row[1])]
    count = sum(len(target) for _, target in rows)
    if not count:
        return None
    lengths = torch.tensor([len(context) + len(target) for context, target in rows])
    total = 0.0
    parts = micro_batches(lengths, policy.model.config.get_text_config().vocab_size, batch_size)
    for index in (activity or Activity()).over(parts, what, len(rows)):
        total += _log_likelihood(policy, [rows[i] for i in index.tolist()], chat.pad_id)
    mean = -total / count
    return math.exp(mean) if mean < 700 else math.inf  # exp would raise on overflow


@torch.no_grad()
def _log_likelihood(policy: Policy, rows: Sequence[Row], pad_id: int) -> float:
    """Sum the log-probabilities of the targets given their contexts, nats."""
    batch = collate(rows, pad_id, policy.device)
    return float(masked_sum(policy.response_logprobs(batch, 1.0).double(), batch.response_mask))


@dataclass(frozen=True)
class Divergence:
    """Sums over each response's tokens, float64, nats."""

    k1: Tensor  # (B,)
    k3: Tensor  # (B,)
    entropy: Tensor  # (B,) of the policy's next-token distributions
    lengths: Tensor  # (B,) tokens

    def kl(self) -> dict[str, float]:
        """Compute k1 and k3 in nats per response and per token, each with its standard error over responses.

        Per response is the mean of the sums, per token the sum over all tokens divided by their number. That is a ratio
        of two sums, whose error is that of the residuals sum_t d - ratio * T (Cochran 1977, equation 6.13). Errors are
        NaN for a single response.
        """
        figures, terms = {}, (("k1", self.k1), ("k3", self.k3))
        for name, values in terms:
            figures[f"per_response_{name}"] = float(values.mean())
            figures[f"per_response_{name}_se"] = _standard_error(values)
        for name, values in terms:
            ratio = float(values.sum() / self.lengths.sum())
            figures[f"per_token_{name}"] = ratio
            residuals = (values - ratio * self.lengths) / self.lengths.double().mean()
            figures[f"per_token_{name}_se"] = _standard_error(residuals)
        return figures

    def entropy_per_token(self) -> float:
        """Compute the mean entropy over all tokens, nats."""
        return float(self.entropy.sum() / self.lengths.sum())


def _standard_error(values: Tensor) -> float:
    n = len(values)
    return float(values.std(correction=1)) / math.sqrt(n) if n > 1 else math.nan


@torch.no_grad()
def divergence(
    policy: Policy,
    reference: Policy,
    rollout: Rollout,
    temperature: float,
    rows: int,
    activity: Activity | None = None,
) -> Divergence:
    """Compute KL and entropy of `policy` on a rollout that it sampled at `temperature`, by passes of at most `rows`."""
    sums = torch.zeros(3, len(rollout), dtype=torch.float64)
    vocabulary = policy.model.config.get_text_config().vocab_size
    parts = micro_batches(rollout.attention_mask.sum(1).cpu(), vocabulary, rows)
    for index in (activity or Activity()).over(parts, "responses read for the KL", len(rollout)):
        part = rollout.rows(index.to(policy.device))
        stats = policy(part, temperature)
        ref_logp = reference.response_logprobs(part, temperature)
        terms = (k1(stats.logprobs, ref_logp), k3(stats.logprobs, ref_logp), stats.entropy)
        for row, term in zip(sums, terms, strict=True):
            row[index] = masked_sum(term.double(), part.response_mask, dim=1).cpu()
    return Divergence(sums[0], sums[1], sums[2], rollout.lengths.cpu())
