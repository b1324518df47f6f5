"""Supervised fine-tuning on demonstrations: the base line that a preference method must beat."""

from align.algorithms.offline import Demonstrations, Offline
from align.config.methods import SFTConfig
from align.engine.protocol import TokenStats
from align.functional.masked import masked_sum
from align.loop.context import LoopContext
from align.loop.protocol import Loss, Progress, Trained
from align.metrics import Tally
from align.types import Batch


class SFT(Offline):
    """Sampled from nothing; credited by nothing; trained with the mean negative log-likelihood of response tokens."""

    method: SFTConfig

    def __init__(self, run: LoopContext) -> None:
        super().__init__(run)
        self.trained = {"policy": Trained(self.loss, self.method.rate)}

    def collect(self, at: Progress) -> Demonstrations:
        return Demonstrations(self.run.demonstrations, self.run.chat.pad_id, self.run.accelerator.device)

    def loss(self, batch: Batch, out: TokenStats) -> Loss:
        tally, tokens = Tally(), float(batch.mask.sum())
        loss = masked_sum(-out.logprobs, batch.mask)
        tally.add("sft/loss", float(loss.detach()), tokens)
        tally.add("policy/entropy", float(masked_sum(out.entropy, batch.mask)), tokens)
        return Loss(loss / batch.size.tokens, tally)
