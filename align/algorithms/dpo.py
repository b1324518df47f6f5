"""DPO (arXiv 2305.18290) and its relatives: the policy against the reference on given pairs, without sampling.

Log-probabilities are summed over the response's tokens, its one end token included. Losses: functional/preference.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from align.algorithms.offline import OfflineTrainer
from align.config.methods import DPOConfig, DPOLoss
from align.data.collate import collate
from align.functional.masked import masked_sum
from align.functional.preference import hinge_loss, ipo_loss, preference_margin, robust_loss, sigmoid_loss
from align.metrics import Tally
from align.types import Pair, Sequences


class DPOTrainer(OfflineTrainer):
    method: DPOConfig

    def lengths(self, pairs: Sequence[Pair]) -> Tensor:
        return torch.tensor([2 * len(p.prompt.input_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in pairs])

    def backward(self, pairs: Sequence[Pair], batch: Sequence[Pair], tally: Tally) -> float:
        rows = [
            (p.prompt.input_ids, r)
            for side in ("chosen_ids", "rejected_ids")
            for p in pairs
            for r in [getattr(p, side)]
        ]
        both = collate(rows, self.run.chat.pad_id, self.run.accelerator.device)
        chosen, rejected = self._scores(self.engines["policy"](both, 1.0).logprobs, both).chunk(2)
        references: tuple[Tensor | None, Tensor | None] = (None, None)
        if not self.method.reference_free:
            ref = self._scores(self.run.roles.reference.response_logprobs(both, 1.0), both)
            references = (ref.chunk(2)[0], ref.chunk(2)[1])
        margin = preference_margin(chosen, rejected, *references)
        losses = self._losses(margin)
        loss = losses.sum() / len(batch)
        with self.run.roles.policy.active():
            self.run.accelerator.backward(loss)
        self._report(tally, losses, margin, chosen, rejected)
        return float(loss.detach())

    def _scores(self, logprobs: Tensor, batch: Sequences) -> Tensor:
        """(N,) log-probability of each response, per token where length_normalised."""
        total = masked_sum(logprobs, batch.response_mask, dim=1)
        return total / batch.lengths.clamp(min=1) if self.method.length_normalised else total

    def _losses(self, margin: Tensor) -> Tensor:
        method = self.method
        match method.loss:
            case DPOLoss.sigmoid:
                return sigmoid_loss(margin, method.beta, label_smoothing=method.label_smoothing, target=method.margin)
            case DPOLoss.robust:
                return robust_loss(margin, method.beta, label_smoothing=method.label_smoothing)
            case DPOLoss.ipo:
                return ipo_loss(margin, method.beta)
            case DPOLoss.hinge:
                return hinge_loss(margin, method.beta)

    @torch.no_grad()
    def _report(self, tally: Tally, losses: Tensor, margin: Tensor, chosen: Tensor, rejected: Tensor) -> None:
        tally.observe("dpo/loss", losses.tolist())
        tally.observe("dpo/margin", (self.method.beta * margin).tolist())
        tally.observe("dpo/accuracy", ((margin > 0).float() + 0.5 * (margin == 0).float()).tolist())
        tally.observe("dpo/chosen_logp", chosen.tolist())  # both falling is a known failure (TRL issue 800)
        tally.observe("dpo/rejected_logp", rejected.tolist())
