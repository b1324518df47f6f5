"""The one builder of a run's context for tests: roles, reward and callbacks as a run assembles them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from align.algorithms.registry import algorithm_class
from align.callbacks.base import Callback, CallbackList
from align.config import Config
from align.config.automatic import ModelFacts, settle
from align.engine.roles import Roles, build_roles
from align.loop.context import RunContext, modules_of
from align.loop.loop import Loop
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards import RewardModelScorer, Source, build_credit
from align.types import Completion, Pair, Prompt

CPU = torch.device("cpu")


def run_context(
    path: Path,
    config: Config,
    chat: ChatTokenizer,
    *,
    roles: Roles | None = None,
    reward: Path | None = None,
    source: Source | None = None,
    prompts: Sequence[Prompt] = (),
    pairs: Sequence[Pair] = (),
    callbacks: Sequence[Callback] = (),
    evaluate: Callable[[int], None] = lambda step: None,
    accelerator: Accelerator | None = None,
    dtype: torch.dtype = torch.float32,
) -> RunContext:
    """Everything that a method works with, in the run folder `path`.

    Args:
        roles: None = those that `config` and `reward`, the folder of a reward model, ask for.
        source: Of scores; None = the reward model.
    """
    config = settle(config, ModelFacts(world=True)).config
    torch.manual_seed(0)
    if roles is None:
        critic = config.method.critic
        roles = build_roles(config, device=CPU, dtype=dtype, reward=reward, critic_init=critic)
    if source is None:
        assert roles.reward is not None
        source = RewardModelScorer(roles.reward)
    if accelerator is None:
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True)
    return RunContext(
        config=config,
        folder=path,
        accelerator=accelerator,
        modules=modules_of(roles),
        reference=roles.reference,
        roles=roles,
        chat=chat,
        prompts=list(prompts),
        pairs=list(pairs),
        demonstrations=[Completion(pair.prompt, pair.chosen, pair.chosen_ids) for pair in pairs],
        source=source,
        credit=build_credit(config.reward.credit),
        callbacks=CallbackList(list(callbacks)),
        evaluate=evaluate,
    )


def loop_of(run: RunContext) -> Loop:
    """The run's algorithm on the loop."""
    return Loop(run, algorithm_class(run.config.method.name)(run))
