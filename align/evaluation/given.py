"""Given responses in the form in which sampled ones are scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from align.data.collate import collate
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards import reward_input
from align.types import Prompt, RewardInput, Rollout


def given_input(rows: Sequence[tuple[Prompt, Sequence[int]]], chat: ChatTokenizer, device: torch.device) -> RewardInput:
    """What a reward source sees of these responses (token ids, end token included), as if they had ended by themselves.

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
