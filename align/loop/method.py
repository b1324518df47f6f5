"""What the runner asks of a method, whether it trains on our loop, on another library's, or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from align.engine.responder import Responder
from align.loop.context import RunContext


class Method(ABC):
    """One method on one run; `Trainer` (trainers/base.py) is the base of those on our loop."""

    stopped: str | None = None  # why the run ended before max_steps
    micro_batch_tokens: int | None = None  # padded tokens of a forward and backward pass; None on no loop of ours

    def __init__(self, run: RunContext) -> None:
        self.run = run
        self.config = run.config

    @property
    @abstractmethod
    def step(self) -> int:
        """Optimizer updates of the policy so far."""

    @abstractmethod
    def train(self) -> None:
        """All that the method does between the evaluation before and the one after."""

    def resume(self, folder: Path) -> None:
        """Continue from the checkpoint in `folder`; only methods that write checkpoints are asked to."""
        raise TypeError(f"{type(self).__name__} writes no checkpoints")

    def responder(self) -> Responder | None:
        """Who answers the held-out prompts at the end; None = the policy, one sample each."""
        return None

    def figures(self) -> dict[str, Any]:
        """What else is to be said of the result: joins the summary of the evaluation at the end."""
        return {}

    def save(self, folder: Path) -> None:
        """Write what the method made, as transformers or peft load it."""
        save_model(self.run, folder)


def save_model(run: RunContext, folder: Path) -> None:
    """The policy as transformers or peft load it, with its tokenizer."""
    run.roles.policy.save(folder)
    run.chat.tokenizer.save_pretrained(folder)
