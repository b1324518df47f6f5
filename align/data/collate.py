"""Padding of token lists to tensors."""

from collections.abc import Sequence

import torch

from align.types import Sequences

Row = tuple[Sequence[int], Sequence[int]]  # prompt and response, or context and continuation


def collate(rows: Sequence[Row], pad_id: int, device: torch.device) -> Sequences:
    """Pad prompts on the left and responses on the right, each side to its longest row."""
    p, t = max(len(prompt) for prompt, _ in rows), max(len(response) for _, response in rows)

    def tensor(lists: list[list[int]]) -> torch.Tensor:
        return torch.tensor(lists, dtype=torch.long, device=device)

    return Sequences(
        prompt_ids=tensor([[pad_id] * (p - len(prompt)) + [*prompt] for prompt, _ in rows]),
        prompt_mask=tensor([[0] * (p - len(prompt)) + [1] * len(prompt) for prompt, _ in rows]),
        response_ids=tensor([[*response] + [pad_id] * (t - len(response)) for _, response in rows]),
        response_mask=tensor([[1] * len(response) + [0] * (t - len(response)) for _, response in rows]),
    )
