"""Who scores responses in an evaluation: the run's own reward, the world's true one, a model that only judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from align.types import Prompt, RewardInput, RewardOutput
from align.worlds import Gold, World

Scores = dict[str, float | None]  # by judge: proxy, gold (null where unknown), evaluation (where there is such a model)


@dataclass(frozen=True)
class Judge:
    """Everything that puts a number on a response. Nothing here is trained on, but `score`."""

    score: Callable[[RewardInput], RewardOutput]  # the run's reward source: the proxy
    credit: Callable[[RewardOutput, Tensor], Tensor] | None = None  # its rewards per token, to be shown
    world: World | None = None  # whose gold reward is known
    evaluation: Callable[[RewardInput], RewardOutput] | None = None  # a reward model that nothing is trained against
    total: Callable[[RewardInput], RewardOutput] | None = None  # `score` without the signals that credit needs; cheaper

    @property
    def name(self) -> str:
        """Which score decides the win rate: the best that there is."""
        return self.quality or "proxy"

    @property
    def quality(self) -> str | None:
        """Which score stands for quality where it is held against the proxy; None where nothing does."""
        return "gold" if self.world is not None else "evaluation" if self.evaluation is not None else None

    def gold(self, prompt: Prompt, response: str, ended: bool) -> Gold | None:
        """The true reward; None where no world is known, or the prompt is no row of its data."""
        return self.world.gold(prompt.row, response, ended) if self.world is not None and prompt.row else None

    def scores(self, batch: RewardInput, prompts: Sequence[Prompt], output: RewardOutput | None = None) -> list[Scores]:
        """Every judge's score of every response.

        Args:
            prompts: One per row; their data rows decide the gold reward.
            output: What `score` gave, where it was asked already.
        """
        output = output or (self.total or self.score)(batch)
        proxy = output.total.tolist()
        other = None if self.evaluation is None else self.evaluation(batch).total.tolist()
        found: list[Scores] = []
        ended = batch.rollout.ended.tolist()
        for i, (prompt, response) in enumerate(zip(prompts, batch.responses, strict=True)):
            gold = self.gold(prompt, response, ended[i])
            row: Scores = {"proxy": proxy[i], "gold": None if gold is None else gold.total}
            found.append(row if other is None else row | {"evaluation": other[i]})
        return found


def value(scores: Any, judge: str) -> float:
    """A score for arithmetic; what is null in a file (a NaN, or nothing) is NaN."""
    score = scores.get(judge)
    return float("nan") if score is None else float(score)
