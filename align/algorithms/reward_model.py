"""Reward models on the loop: a scalar head on the start model's body learns from pairs, then maybe from prefixes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from align.algorithms.offline import Offline, PairExamples
from align.engine.reference import ValueHead
from align.functional.preference import wins
from align.loop.context import LoopContext
from align.loop.protocol import Loss, Progress, Trained
from align.metrics import Tally
from align.rewards.pairs import final_scores, score_at
from align.types import Batch

ROLE = "reward_model"


class RewardModel(Offline):
    """Sampled from nothing; credited by nothing; trained to score the chosen response above the rejected one."""

    def __init__(self, run: LoopContext, center_coef: float) -> None:
        super().__init__(run)
        self._center_coef = center_coef
        self.trained = {ROLE: Trained(self.loss, self.method.rate)}

    def loss(self, batch: Batch, scores: Tensor) -> Loss:
        """-log s(r_w - r_l) + c (r_w + r_l)^2 (Bradley-Terry, arXiv 2203.02155, eq. 1; arXiv 2312.09244, section 2.1).

        Args:
            scores: (2n, T + 1), of every prefix; a response's own is the one at its last token.
        """
        chosen, rejected = final(batch, scores).chunk(2)
        margin, tally = chosen - rejected, Tally()
        losses = -logsigmoid(margin) + self._center_coef * (chosen + rejected) ** 2
        tally.observe("reward_model/loss", losses.tolist())
        tally.observe("reward_model/margin", margin.tolist())
        tally.observe("reward_model/accuracy", wins(margin).tolist())
        return Loss(losses.sum() / batch.size.rows, tally)


@dataclass(frozen=True)
class PrefixExamples(PairExamples):
    """Pairs with the score that each response had before this stage."""

    targets: Tensor = field(default_factory=lambda: torch.zeros(0, 2))  # (n, 2), chosen and rejected

    def columns(self, index: Tensor) -> dict[str, Tensor]:
        return {"targets": self.targets[index.to(self.targets.device)].t().flatten()}


class PrefixScores(Offline):
    """Sampled from nothing; credited by nothing; trained to give every prefix the score of the whole response.

    A reward model trained at the end token alone has never been asked about an unfinished response, and its differences
    of successive prefix scores (`reward/credit=prefix`) are off its training distribution. Here the same network is
    regressed, at each prefix, the empty one included, on the score that it gave the whole response before this stage
    (mean squared error, the target frozen): the expected final score given the prefix, which is the value function that
    RED (arXiv 2411.08302) takes prefix scores for, on the data's own responses.
    """

    def __init__(self, run: LoopContext) -> None:
        """Scores all responses as the model does at first; a checkpoint is loaded later."""
        super().__init__(run)
        model = run.modules[ROLE]
        assert isinstance(model, ValueHead)
        self._targets = final_scores(model, run.chat, run.pairs, run.activity).view(-1, 2)
        self.trained = {ROLE: Trained(self.loss, self.method.rate)}

    def collect(self, at: Progress) -> PairExamples:
        run = self.run
        return PrefixExamples(run.pairs, self.sides, run.chat.pad_id, run.accelerator.device, targets=self._targets)

    def loss(self, batch: Batch, scores: Tensor) -> Loss:
        """Mean squared error over all prefixes, plus the same mean over whole responses alone, which keeps the ranking.

        Args:
            scores: (2n, T + 1), of every prefix.
        """
        mask = pad(batch.mask, (1, 0), value=1)
        squared = ((scores - batch.columns["targets"].unsqueeze(1)) ** 2).masked_fill(mask == 0, 0)
        responses = 2 * batch.size.rows
        prefixes, tally = batch.size.tokens + responses, Tally()
        tally.add("reward_model/prefix_error", float(squared.detach().sum()), float(mask.sum()))
        return Loss(squared.sum() / prefixes + final(batch, squared).sum() / responses, tally)


def final(batch: Batch, scores: Tensor) -> Tensor:
    """The entry (B,) of whole responses among those of all prefixes (B, T + 1)."""
    return score_at(scores, batch.sequences.lengths)
