"""Interfaces of rewards: a reward is a source of scores and a credit scheme that spreads them over tokens.

The KL penalty is never part of a reward: the algorithm adds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from align.data.collate import collate
from align.models.chat_tokenizer import ChatTokenizer
from align.types import Prompt, RewardInput, RewardOutput, Rollout


class Source(Protocol):
    """A source of scores for a batch of responses."""

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        """Score the batch; `needs` names the finer signals (fields of RewardOutput) to fill in."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A source that changes while it scores: it normalises by earlier scores."""

    def frozen(self) -> Source:
        """Return the source without the changing part, for scores that are compared over time."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the changing part as JSON; empty where nothing changes."""
        ...

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        ...


def frozen(source: Source) -> Source:
    """Return `source` for evaluations: without its changing part, where it has one."""
    return source.frozen() if isinstance(source, Stateful) else source


def state(source: Source) -> dict[str, Any]:
    """Return the state of `source` for a checkpoint; empty where nothing changes."""
    return source.state() if isinstance(source, Stateful) else {}


def load_state(source: Source, saved: Mapping[str, Any]) -> None:
    """Restore the state of `source` from a checkpoint."""
    if isinstance(source, Stateful):
        source.load_state(saved)


def reward_input(rollout: Rollout, prompts: Sequence[Prompt], chat: ChatTokenizer) -> RewardInput:
    """Build the input of a reward source from a rollout and the prompts of its rows, one per row."""
    responses: list[str] = []
    offsets = torch.zeros(*rollout.response_ids.shape, 2, dtype=torch.long)
    lengths = rollout.lengths.tolist()
    for i, (ids, n) in enumerate(zip(rollout.response_ids.tolist(), lengths, strict=True)):
        responses.append(chat.decode(ids[:n]))
        offsets[i, :n] = torch.tensor(chat.offsets(ids[:n])).view(-1, 2)
    return RewardInput(
        prompts=[p.text for p in prompts],
        responses=responses,
        rollout=rollout,
        offsets=offsets,
        rows=[p.row for p in prompts],
        messages=[p.messages for p in prompts],
    )


def given_input(rows: Sequence[tuple[Prompt, Sequence[int]]], chat: ChatTokenizer, device: torch.device) -> RewardInput:
    """Build the input of a reward source from given responses, as if each had ended by itself.

    Args:
        rows: Prompts with the token ids of a response each, end token included.

    Raises:
        ValueError: There are no rows.
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
