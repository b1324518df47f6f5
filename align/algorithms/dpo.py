"""DPO (arXiv 2305.18290) and its relatives: the policy against the reference on given pairs, without sampling.

Log-probabilities are summed over the response's tokens, its one end token included. Losses: functional/preference.py.
"""

from torch import Tensor

from align.algorithms.offline import Offline
from align.config.methods import DPOConfig, DPOLoss
from align.engine.protocol import TokenStats
from align.functional.masked import masked_sum
from align.functional.preference import hinge_loss, ipo_loss, preference_margin, robust_loss, sigmoid_loss, wins
from align.loop.context import LoopContext
from align.loop.protocol import Loss, Trained
from align.metrics import Tally
from align.types import Batch


class DPO(Offline):
    """Sampled from nothing; credited by nothing; trained on the margin of log-ratios to the reference."""

    method: DPOConfig

    def __init__(self, run: LoopContext) -> None:
        super().__init__(run)
        self.trained = {"policy": Trained(self.loss, self.method.rate)}
        self.reads_reference = not self.method.reference_free

    def loss(self, batch: Batch, out: TokenStats) -> Loss:
        chosen, rejected = self._scores(out.logprobs, batch).chunk(2)
        references: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.reads_reference:
            ref_chosen, ref_rejected = self._scores(batch.columns["ref_logprobs"], batch).chunk(2)
            references = ref_chosen, ref_rejected
        margin = preference_margin(chosen, rejected, *references)
        losses, tally = self._losses(margin), Tally()
        tally.observe("dpo/loss", losses.tolist())
        tally.observe("dpo/margin", (self.method.beta * margin).tolist())
        tally.observe("dpo/accuracy", wins(margin).tolist())
        tally.observe("dpo/chosen_logp", chosen.tolist())  # both falling is a known failure (TRL issue 800)
        tally.observe("dpo/rejected_logp", rejected.tolist())
        return Loss(losses.sum() / batch.size.rows, tally)

    def _scores(self, logprobs: Tensor, batch: Batch) -> Tensor:
        """(2n,) log-probability of each response, per token where length_normalised."""
        total = masked_sum(logprobs, batch.mask, dim=1)
        return total / batch.sequences.lengths.clamp(min=1) if self.method.length_normalised else total

    def _losses(self, margin: Tensor) -> Tensor:
        """(n,) of margins (n,)."""
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
