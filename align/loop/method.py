"""What the runner asks of a method, whether it trains on our loop, on another library's, or not at all."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from align.engine.responder import Responder
from align.loop.checkpoint import save_policy
from align.loop.context import RunContext
from align.loop.loop import Loop
from align.loop.protocol import Algorithm


class Method(ABC):
    """One method on one run: training on the loop (`OnLoop`), on another library's, or none at all."""

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
        save_policy(self.run.roles.policy, self.run.chat, folder)


class OnLoop(Method):
    """A method whose algorithm trains on the loop."""

    def __init__(self, run: RunContext, algorithm: Algorithm) -> None:
        super().__init__(run)
        self.loop = Loop(run, algorithm)
        self.micro_batch_tokens = run.micro_batch_tokens

    @property
    def step(self) -> int:
        return self.loop.step

    def train(self) -> None:
        self.loop.train()
        self.stopped = self.loop.stopped

    def resume(self, folder: Path) -> None:
        self.loop.resume(folder)


def method_of(run: RunContext, built: Any) -> Method:
    """Put an algorithm on the loop; a method that trains elsewhere, or not at all, is one already."""
    return built if isinstance(built, Method) else OnLoop(run, built)
