"""Interfaces of rewards: a reward is a source of scores and a credit scheme that spreads them over tokens.

The KL penalty is never part of a reward: the algorithm adds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch

from align.data.collate import collate
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Prompt, RewardInput, RewardOutput, Rollout, TrainerState


class Source:
    """A source of scores for a batch of responses; by default nothing in it changes while it scores.

    This base itself stands for a run without reward, and scores nothing.
    """

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        """Score the batch; `needs` names the finer signals (fields of RewardOutput) to fill in."""
        raise NotImplementedError("no reward source: nothing is scored")

    def frozen(self) -> Source:
        """Return the source without its changing part, for scores that are compared over time."""
        return self

    def state(self) -> dict[str, Any]:
        """Return the changing part as JSON, for a checkpoint; empty where nothing changes."""
        return {}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""


class Wrapper(Source):
    """A source that changes the output of another."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def frozen(self) -> Source:
        view = copy(self)
        view.source = self.source.frozen()
        return view

    def state(self) -> dict[str, Any]:
        return self.source.state()

    def load_state(self, saved: Mapping[str, Any]) -> None:
        self.source.load_state(saved)


def reward_input(
    rollout: Rollout, prompts: Sequence[Prompt], chat: ChatTokenizer, training: TrainerState | None = None
) -> RewardInput:
    """Build the input of a reward source from a rollout and the prompts of its rows, one per row.

    Args:
        training: The place of the training that learns from the scores; None where nothing does.
    """
    responses: list[str] = []
    offsets = torch.zeros(*rollout.response_ids.shape, 2, dtype=torch.long)
    for i, (row, n) in enumerate(zip(rollout.response_ids.tolist(), rollout.lengths.tolist(), strict=True)):
        responses.append(chat.decode(row[:n]))
        offsets[i, :n] = torch.tensor(chat.offsets(row[:n])).view(-1, 2)
    names = ("text", "row", "messages", "conversation")
    texts, rows, messages, conversations = ([getattr(p, name) for p in prompts] for name in names)
    return RewardInput(texts, responses, rollout, offsets, rows, messages, conversations, training)


def given_input(rows: Sequence[tuple[Prompt, Sequence[int]]], chat: ChatTokenizer, device: torch.device) -> RewardInput:
    """Build the input of a reward source from prompts and the token ids of a response each, end token included.

    Each response counts as ended by itself. Raises ValueError where there are no rows.
    """
    prompts = [prompt for prompt, _ in rows]
    batch = collate([(prompt.input_ids, ids) for prompt, ids in rows], chat.pad_id, device)
    rollout = Rollout(
        **batch.tensors(),
        ended=torch.ones(len(rows), dtype=torch.bool, device=device),
        prompt_index=torch.tensor([prompt.id for prompt in prompts], device=device),
        sample_index=torch.zeros(len(rows), dtype=torch.long, device=device),
        sampling_logprobs=torch.zeros(batch.response_ids.shape, device=device),
    )
    return reward_input(rollout, prompts, chat)
