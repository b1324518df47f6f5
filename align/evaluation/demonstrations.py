"""Held-out demonstrations: the perplexity of the policy on responses that have no worse one beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from align.activity import Activity
from align.data.collate import collate
from align.engine.reference import Policy
from align.evaluation.intervals import Bootstrap, perplexity_of
from align.evaluation.preference import given_logprobs
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Completion


def demonstration_rows(
    policy: Policy, chat: ChatTokenizer, given: Sequence[Completion], batch_size: int, activity: Activity
) -> list[dict[str, Any]]:
    """Return a row of evaluation_demonstrations.jsonl for each: nats and tokens of the response, end included."""
    rows = collate([(one.prompt.input_ids, one.ids) for one in given], chat.pad_id, policy.device)
    prompts = torch.tensor([one.prompt.id for one in given])
    nats = given_logprobs(policy, rows, prompts, batch_size, activity).tolist()
    return [
        {"prompt_id": one.prompt.id, "logprob": value, "tokens": len(one.ids)}
        for one, value in zip(given, nats, strict=True)
    ]


def demonstration_figures(rows: Sequence[Mapping[str, Any]], interval: Bootstrap) -> dict[str, float | None]:
    """Compute the perplexity over all tokens, with its interval over prompts."""
    nats, tokens = (torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in ("logprob", "tokens"))
    return interval.ratio("perplexity", -nats, tokens, [row["prompt_id"] for row in rows], perplexity_of)
