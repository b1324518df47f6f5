"""Reward functions as TRL's trainers take them, used as they are: known by their parameter `completions`.

    python examples/gsm8k.py train.jsonl pairs.jsonl
    align method=grpo data=jsonl data.path=pairs.jsonl model=... reward/source=function reward/credit=sparse \
        reward.source.path=examples/trl_rewards.py:correct

Several, with weights, as `reward_funcs` and `reward_weights` are; what a sum holds by itself is taken out (`~`):

    align method=grpo data=jsonl data.path=pairs.jsonl model=... reward/source=composite reward/credit=sparse \
        ~reward.source.parts.model ~reward.source.weights.model \
        ~reward.source.parts.rules ~reward.source.weights.rules \
        +reward/source@reward.source.parts.correct=function +reward/source@reward.source.parts.short=function \
        reward.source.parts.correct.path=examples/trl_rewards.py:correct +reward.source.weights.correct=1 \
        reward.source.parts.short.path=examples/trl_rewards.py:short +reward.source.weights.short=0.2

Columns of the data are arguments by their names: `answer` here. None says that a function does not apply to a response,
which then counts in no sum, mean or baseline.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from trl.rewards import get_soft_overlong_punishment

short = get_soft_overlong_punishment(max_completion_len=200, soft_punish_cache=100)  # 0, from 100 tokens on down to -1


def correct(
    completions: list[Any], answer: list[str], log_metric: Callable[[str, float], None] | None = None, **kwargs: Any
) -> list[float | None]:
    """1 where the number behind the last #### is the answer's; None where the answer has none."""
    rewards: list[float | None] = []
    for completion, given in zip(completions, answer, strict=True):
        text = completion if isinstance(completion, str) else completion[0]["content"]
        expected, found = number(given), number(text)
        rewards.append(None if expected is None else float(found == expected))
    if log_metric is not None:
        log_metric("answered", sum("####" in str(completion) for completion in completions) / len(completions))
    return rewards


def number(text: str) -> float | None:
    """The number behind the last ####."""
    found = re.findall(r"####\s*\$?(-?[\d,]*\.?\d+)", text)
    return float(found[-1].replace(",", "")) if found else None
