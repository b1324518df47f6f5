"""Held-out pairs: does the policy prefer the chosen response, by log-probability, by log-ratio, and per token."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from align.activity import Activity
from align.engine.reference import Policy
from align.evaluation.intervals import Bootstrap, perplexity_of
from align.evaluation.likelihood import logit_budget
from align.functional.batching import token_batches
from align.functional.masked import masked_sum
from align.functional.preference import wins
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards.pairs import sequences_of
from align.types import Pair, Sequences

LOGPROBS = ("chosen_logprob", "rejected_logprob")  # columns of evaluation_pairs.jsonl, nats summed over a response


@torch.no_grad()
def pair_logprobs(
    policy: Policy, chat: ChatTokenizer, pairs: Sequence[Pair], batch_size: int, activity: Activity | None = None
) -> Tensor:
    """Compute the log-probabilities of chosen and rejected responses, summed over tokens: (n, 2) float64, nats.

    Temperature 1, end token included. The responses to a prompt are read together, since the prompt may then be read
    once for all.
    """
    if not pairs:
        return torch.zeros(0, 2, dtype=torch.float64)
    prompts = torch.tensor([pair.prompt.id for pair in pairs]).repeat_interleave(2)
    return given_logprobs(policy, sequences_of(pairs, chat, policy.device), prompts, batch_size, activity).view(-1, 2)


@torch.no_grad()
def given_logprobs(
    policy: Policy, rows: Sequences, prompts: Tensor, batch_size: int, activity: Activity | None = None
) -> Tensor:
    """Compute the log-probabilities of given responses, summed over tokens: (n,) float64, nats.

    Args:
        prompts: (n,) prompt of each row; rows of one prompt are read together.
    """
    shared = policy.shared_tokens(rows.prompt_mask)
    budget = logit_budget(policy.model.config)
    sums = torch.zeros(len(rows), dtype=torch.float64)
    groups = token_batches(rows.attention_mask.sum(1).cpu(), budget, prompts, shared.cpu())
    parts = [index for group in groups for index in group.split(batch_size)]
    for index in (activity or Activity()).over(parts, "held-out responses read", len(rows)):
        part = rows.rows(index.to(policy.device))
        logprobs = policy.response_logprobs(part, 1.0).double()
        sums[index] = masked_sum(logprobs, part.response_mask, dim=1).cpu()
    return sums


def pair_rows(pairs: Sequence[Pair], logprobs: Tensor) -> list[dict[str, Any]]:
    """Return a row of evaluation_pairs.jsonl for each pair with its `logprobs` (n, 2)."""
    return [
        {
            "prompt_id": pair.prompt.id,
            **dict(zip(LOGPROBS, values, strict=True)),
            "chosen_tokens": len(pair.chosen_ids),
            "rejected_tokens": len(pair.rejected_ids),
        }
        for pair, values in zip(pairs, logprobs.tolist(), strict=True)
    ]


def logprobs_of(rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """Return the log-probabilities (n, 2) float64 of rows of evaluation_pairs.jsonl; a null there is NaN."""
    return torch.tensor(
        [[float("nan") if row[c] is None else row[c] for c in LOGPROBS] for row in rows], dtype=torch.float64
    )


def preference_figures(
    pairs: Sequence[Pair], logprobs: Tensor, reference: Tensor, interval: Bootstrap
) -> dict[str, Any]:
    """Compute accuracies (ties half), mean margins and perplexities, with intervals over prompts.

    Args:
        logprobs: (n, 2) under the policy, of chosen and rejected responses.
        reference: (n, 2) under the start model. DPO's implicit reward is the difference of the two, times beta.
    """
    tokens = torch.tensor([[len(pair.chosen_ids), len(pair.rejected_ids)] for pair in pairs], dtype=torch.float64)
    prompts = [pair.prompt.id for pair in pairs]
    scores = {"logprob": logprobs, "log_ratio": logprobs - reference, "per_token": logprobs / tokens}
    figures: dict[str, Any] = {"pairs": len(pairs), "prompts": len(set(prompts))}
    for name, score in scores.items():
        figures[name] = _of_margins(score[:, 0] - score[:, 1], prompts, interval)
    for i, side in enumerate(("chosen", "rejected")):
        figures |= interval.ratio(f"perplexity_{side}", -logprobs[:, i], tokens[:, i], prompts, perplexity_of)
    return figures


def ahead(margins: Tensor) -> Tensor:
    """Return 1 where a margin is above 0, 0 below, ties half (n,) float64; a NaN stays one, being no loss."""
    return torch.where(margins.isnan(), margins, wins(margins).double())


def _of_margins(margins: Tensor, prompts: Sequence[int], interval: Bootstrap) -> dict[str, float | None]:
    """Compute the share of margins (n,) above 0, and their mean; of the first None where all are 0: nothing differs."""
    found: dict[str, float | None] = {}
    ones = torch.ones_like(margins)
    for name, values in (("accuracy", ahead(margins)), ("margin", margins)):
        found |= interval.ratio(name, values, ones, prompts)
    if bool((margins == 0).all()):
        found |= dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"))
    return found
