"""Signals that a credit scheme needs and no source offers, added to any source's output."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align.activity import Activity
from align.engine.budget import FORWARD_TOKENS
from align.engine.protocol import LanguageModel
from align.functional.batching import token_batches
from align.functional.credit import spans
from align.functional.masked import zero_outside
from align.rewards.base import Source, Wrapper
from align.types import RewardInput, RewardOutput, Sequences

SENTENCE_ENDS = frozenset(".!?\n")


class LogRatio:
    """DPO's implicit reward per token (arXiv 2305.18290, eq. 5) at temperature 1, at which DPO trains."""

    def __init__(
        self,
        dpo: LanguageModel,
        reference: LanguageModel,
        token_budget: int = FORWARD_TOKENS,
        *,
        activity: Activity | None = None,
    ) -> None:
        self._dpo, self._reference, self._budget = dpo, reference, token_budget
        self._activity = activity or Activity()

    def __call__(self, rows: Sequences) -> Tensor:
        """Compute log pi_dpo - log pi_ref of every response token: (B, T) nats, 0 outside the mask."""
        out = torch.zeros(rows.response_ids.shape, device=rows.response_ids.device)
        parts = token_batches(rows.attention_mask.sum(1), self._budget)
        for index in self._activity.over(parts, "log-ratios read", len(rows)):
            part = rows.rows(index)
            ratio = self._dpo.response_logprobs(part, 1.0) - self._reference.response_logprobs(part, 1.0)
            out[index, : ratio.shape[1]] = ratio
        return out


class WithSignals(Wrapper):
    """A source with the signals in `needs` added: sentence_ends, log_ratio, token_scores of its spans."""

    def __init__(self, source: Source, log_ratio: LogRatio | None = None) -> None:
        super().__init__(source)
        self._log_ratio = log_ratio

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        output = self.source.score(batch, needs)
        added: dict[str, Any] = {}
        if "sentence_ends" in needs:
            added["sentence_ends"] = sentence_ends(batch)
        if "log_ratio" in needs and self._log_ratio is not None:
            added["log_ratio"] = self._log_ratio(batch.rollout)
        if "token_scores" in needs and output.token_scores is None and output.spans is not None:
            added["token_scores"] = spans(output.spans, batch.offsets, batch.rollout.response_mask)
        return replace(output, **added)


def sentence_ends(batch: RewardInput) -> Tensor:
    """Return 1 at each token with a full stop, question or exclamation mark or line end in its text: (B, T).

    Later tokens have no influence, so that a step's end is settled when it is reached (functional/credit.py, `prefix`).
    The point of a decimal number also ends a step, which only splits a step in two.
    """
    mask = batch.rollout.response_mask
    rows = zip(batch.responses, batch.offsets.tolist(), strict=True)
    found = [[not SENTENCE_ENDS.isdisjoint(text[start:end]) for start, end in places] for text, places in rows]
    return zero_outside(torch.tensor(found, device=mask.device).long().view(mask.shape), mask)
