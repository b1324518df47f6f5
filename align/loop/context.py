"""What a trainer is given: everything that a run has made ready, and nothing that a method owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from align.callbacks.base import CallbackList
from align.config import Config
from align.engine.roles import Roles
from align.models.chat_tokenizer import ChatTokenizer
from align.rewards import Credit, Source
from align.types import Pair, Prompt
from align.worlds import World


@dataclass(frozen=True)
class RunContext:
    config: Config
    folder: Path
    accelerator: Accelerator
    roles: Roles
    chat: ChatTokenizer
    prompts: Sequence[Prompt]  # training prompts, in the data set's order
    pairs: Sequence[Pair]  # training pairs, in the data set's order
    source: Source
    credit: Credit
    callbacks: CallbackList
    evaluate: Callable[[int], None]  # evaluate the policy as it is after `step` updates, and report it
    held_out: Sequence[Pair] = ()  # pairs that nothing is trained on
    reward_folder: Path | None = None  # of the stored reward model, where the reward comes from one
    world: World | None = None  # whose gold reward of the run's prompts is known; nothing learns from it here
