"""Judges of responses: the run's own reward, the world's true one, and a reward model that only judges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.activity import Activity
from align.config import ModelConfig
from align.engine.engine import Engine
from align.engine.reference import ValueHead
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import load_tokenizer
from align.models.reward_folder import load_reward_model
from align.rewards import RewardModelScorer, Source
from align.types import Prompt, RewardInput, RewardOutput
from align.worlds import Gold, World, resolve

KEY = "evaluation.reward_model"
# By judge: proxy (null without a reward, and where it does not apply), gold (null where unknown), evaluation (where
# there is such a model).
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Judge:
    """Everything that puts a number on a response; all of it may be missing. Only `score` is trained against."""

    score: Callable[[RewardInput], RewardOutput] | None = None  # the run's reward source: the proxy
    credit: Callable[[RewardOutput, Tensor], Tensor] | None = None  # token rewards of `score`, for display
    world: World | None = None  # the source of the gold reward
    evaluation: Callable[[RewardInput], RewardOutput] | None = None  # a reward model that only judges
    total: Callable[[RewardInput], RewardOutput] | None = None  # `score` without the signals that credit needs; cheaper

    @property
    def name(self) -> str | None:
        """Return the score that decides the win rate: gold, else evaluation, else proxy; None without any."""
        return self.quality or ("proxy" if self.score is not None else None)

    @property
    def quality(self) -> str | None:
        """Return the score that stands for quality against the proxy; None without one."""
        return "gold" if self.world is not None else "evaluation" if self.evaluation is not None else None

    @property
    def names(self) -> list[str]:
        known = {
            "proxy": self.score is not None,
            "gold": self.world is not None,
            "evaluation": self.evaluation is not None,
        }
        return [name for name, there in known.items() if there]

    def gold(self, prompt: Prompt, response: str, ended: bool) -> Gold | None:
        """Compute the true reward; None without a world, or where the prompt is no row of the world's data."""
        return self.world.gold(prompt.row, response, ended) if self.world is not None and prompt.row else None

    def scores(self, batch: RewardInput, prompts: Sequence[Prompt], output: RewardOutput | None = None) -> list[Scores]:
        """Compute every judge's score of every response; `output` is that of `score`, where it is known already."""
        total = self.total or self.score
        if output is None and total is not None:
            output = total(batch)
        proxy: list[float | None] = [None] * len(batch.responses)
        if output is not None:
            scores = zip(output.total.tolist(), output.scored.tolist(), strict=True)
            proxy = [score if scored else None for score, scored in scores]
        answers = zip(prompts, batch.responses, batch.rollout.ended.tolist(), strict=True)
        gold = [self.gold(*answer) for answer in answers]
        found: list[Scores] = [
            {"proxy": p, "gold": None if g is None else g.total} for p, g in zip(proxy, gold, strict=True)
        ]
        if self.evaluation is not None:
            for row, score in zip(found, self.evaluation(batch).total.tolist(), strict=True):
                row["evaluation"] = score
        return found


def value(scores: Any, judge: str) -> float:
    """Return a score for arithmetic; a null in a file (a NaN, or a missing score) is NaN."""
    score = scores.get(judge)
    return float("nan") if score is None else float(score)


def load_judge(
    path: str | Path,
    chat: ChatTokenizer,
    device: torch.device,
    dtype: torch.dtype,
    engine: Engine,
    activity: Activity | None = None,
) -> Source:
    """Load the reward model at `path` as a judge: weights of its own in fp32, compute in `dtype`, unscaled scores.

    Raises:
        InputError: The model cannot be loaded, has another vocabulary than the policy, or no linear `score` head.
    """
    folder = resolve(str(path), KEY)
    if load_tokenizer(ModelConfig(path=folder), key=KEY).get_vocab() != chat.tokenizer.get_vocab():
        raise InputError(KEY, str(path), "a reward model with the policy's vocabulary")
    head = load_value_head(folder, device, dtype, engine, key=KEY, pad_id=chat.pad_id)
    return RewardModelScorer(head, activity=activity)


def load_value_head(
    folder: str, device: torch.device, dtype: torch.dtype, engine: Engine, *, key: str, pad_id: int | None = None
) -> ValueHead:
    """Load a stored reward model as a frozen value head, which scores every prefix.

    Raises:
        InputError: As `load_reward_model`; `key` is named.
    """
    body, head = load_reward_model(folder, dtype=torch.float32, device=device, key=key, pad_id=pad_id)
    return engine.value_head(body, head, dtype).requires_grad_(False)
