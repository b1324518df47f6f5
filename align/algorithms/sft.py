"""Supervised fine-tuning on the chosen responses: the base line that a preference method must beat.

On the same loop as the others rather than TRL's SFTTrainer, so that tokens, checkpoints and records are the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.algorithms.offline import OfflineTrainer
from align.data.collate import collate
from align.functional.losses import aggregate
from align.functional.masked import masked_sum
from align.metrics import Tally
from align.types import Pair


class SFTTrainer(OfflineTrainer):
    """Mean negative log-likelihood of the chosen responses' tokens, the end token included."""

    def lengths(self, pairs: Sequence[Pair]) -> Tensor:
        return torch.tensor([len(p.prompt.input_ids) + len(p.chosen_ids) for p in pairs])

    def backward(self, pairs: Sequence[Pair], batch: Sequence[Pair], tally: Tally) -> float:
        rows = [(p.prompt.input_ids, p.chosen_ids) for p in pairs]
        sequences = collate(rows, self.run.chat.pad_id, self.run.accelerator.device)
        stats, mask = self.engines["policy"](sequences, 1.0), sequences.response_mask
        tally.add("policy/entropy", float(masked_sum(stats.entropy, mask)), float(mask.sum()))
        logprobs = stats.logprobs
        del stats  # and with it the logits, which backward would have beside their gradient
        loss = aggregate(-logprobs, mask, sum(len(p.chosen_ids) for p in batch))
        with self.run.roles.policy.active():
            self.run.accelerator.backward(loss)
        tally.add("sft/loss", -float(masked_sum(logprobs.detach(), mask)), float(mask.sum()))
        return float(loss.detach())
