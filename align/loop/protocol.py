"""What the training loop asks of an algorithm, and what the two hand to each other. Names no algorithm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from align.metrics import Tally
from align.types import Batch, Size

Samples = list[dict[str, Any]]  # JSON objects, for the log of updates that were not applied


@dataclass
class Progress:
    """Place of a run; a checkpoint holds all of it."""

    step: int = 0  # optimizer updates applied
    rollout: int = 0  # index of the rollout in use; of given pairs, passes over them so far
    update: int = 0  # updates tried on the examples in use
    tokens: int = 0  # prompt and response tokens through the policy's forward and backward
    bad_steps: int = 0  # updates not applied
    overflows: int = 0  # updates that a gradient scaler skipped to lower its scale
    seconds: float = 0.0  # of training, earlier sittings included


@dataclass(frozen=True)
class Stop:
    """Reason for which a run ends before max_steps."""

    reason: str


class NotFinite(Exception):
    """Refusal of examples of which a reward was infinite or not a number; the loop counts and skips them."""

    def __init__(self, what: str, samples: Samples) -> None:
        super().__init__(what)
        self.what, self.samples = what, samples


class Loss(NamedTuple):
    """Share of an update's loss that one micro-batch has, normalised by the size of the whole minibatch."""

    value: Tensor  # scalar, with its graph
    metrics: Tally


@dataclass(frozen=True)
class Trained:
    """One role that an algorithm trains."""

    loss: Callable[[Batch, Any], Loss]  # of a micro-batch and the role's outputs on it (engine/protocol.py)
    learning_rate: float
    first_step: int = 0  # before this update the role is left alone, its loss measured only


class Examples(Protocol):
    """What an algorithm learns from until it collects again: n rows, of which each update reads a minibatch."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Figures that are repeated in the record of every update."""
        ...

    @property
    def lengths(self) -> Tensor:
        """(n,) prompt and response tokens of each row."""
        ...

    @property
    def response_tokens(self) -> Tensor:
        """(n,) tokens of each row that the loss counts."""
        ...

    @property
    def prompts(self) -> tuple[Tensor, Tensor] | None:
        """(n,) number of each row's prompt and the prompts' mask (n, P); None where no two rows share a prompt."""
        ...

    def rows(self, index: Tensor, size: Size) -> Batch:
        """The rows that `index` (m,) names as one micro-batch of a minibatch of `size`."""
        ...

    def describe(self, index: Tensor, decode: Callable[[Sequence[int]], str]) -> Samples:
        """The rows that `index` (m,) names, for people."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the examples; empty where collecting again gives the same ones."""
        ...


class Algorithm(Protocol):
    """What a method computes. The loop knows nothing else of it: six hooks, the roles' losses the first of them."""

    trained: Mapping[str, Trained]  # by role, in the order in which their losses are computed
    temperature: float  # divides the logits of every log-probability
    reads_reference: bool  # whether batches hold the reference's log-probabilities, column "ref_logprobs" (B, T)

    def collect(self, at: Progress) -> Examples | Stop:
        """Make the next examples; raises NotFinite for those that cannot be learned from."""
        ...

    def minibatch(self, at: Progress, n: int) -> Tensor:
        """Choose the rows (m,) among `n` that the next update learns from."""
        ...

    def used_up(self, at: Progress, n: int, metrics: Mapping[str, float] | None) -> bool:
        """Whether new examples are collected after the update just tried; metrics are None where it was not applied."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the algorithm, as JSON."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        ...
