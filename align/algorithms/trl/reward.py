"""The run's reward source as a reward function of TRL's: one score per completion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from align.algorithms.rollout_metrics import add_gold, add_rewards, describe
from align.data.collate import collate
from align.errors import RunError
from align.functional.credit import replace_truncated
from align.loop.context import RunContext
from align.metrics import Tally
from align.rewards import reward_input
from align.types import Prompt, Rollout

PLACE = "place"  # the data set's column with a prompt's index in the run's prompts


def reward_function(run: RunContext, penalty: float | None, tally: Tally) -> Callable[..., list[float]]:
    """A function for `reward_funcs`, whose name TRL's metrics carry.

    Args:
        penalty: Replaces the score of a completion without end token; None = off.
        tally: Gets the scores' statistics, before any penalty.

    Raises:
        RunError: A score is not finite; TRL would leave the completion out without a word.
    """

    def align_reward(*, completion_ids: Sequence[Sequence[int]], trainer_state: Any, **columns: Any) -> list[float]:
        prompts = [run.prompts[i] for i in columns[PLACE]]
        rollout = as_rollout(run, prompts, completion_ids)
        batch = reward_input(rollout, prompts, run.chat)
        output = run.source.score(batch, run.credit.needs)
        rewards = run.credit.assign(output, rollout.response_mask)
        rewards = replace_truncated(rewards, rollout.response_mask, rollout.ended, penalty)
        if not bool(torch.isfinite(rewards).all()):
            raise RunError(f"a reward was not finite after step {trainer_state.global_step}")
        add_rewards(tally, output, rollout, penalty is not None)
        if run.world is not None:
            add_gold(tally, run.world, batch)
        run.callbacks.on_rollout(trainer_state.global_step + 1, describe(batch, output, rewards))
        return rewards.sum(1).tolist()

    return align_reward


def as_rollout(run: RunContext, prompts: Sequence[Prompt], completions: Sequence[Sequence[int]]) -> Rollout:
    """TRL's completions as what our sources score; `sample_index` counts the completions to the same prompt."""
    rows = [(p.input_ids, ids) for p, ids in zip(prompts, completions, strict=True)]
    device = run.roles.policy.device
    sequences = collate(rows, run.chat.pad_id, device)
    seen: Counter[int] = Counter()
    index = []
    for prompt in prompts:
        index.append(seen[prompt.id])
        seen[prompt.id] += 1
    return Rollout(
        **sequences.tensors(),
        ended=torch.tensor([ids[-1] in run.chat.end_ids for ids in completions], device=device),
        prompt_index=torch.tensor([p.id for p in prompts], device=device),
        sample_index=torch.tensor(index, device=device),
        sampling_logprobs=torch.zeros(sequences.response_ids.shape, device=device),  # TRL does not keep them
    )
