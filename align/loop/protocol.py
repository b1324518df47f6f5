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
    rollout: int = 0  # index of the rollout in use; of given pairs, passes over them so far (Offline.used_up)
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
    """Contribution of one micro-batch to an update's loss: its sum divided by the minibatch's size, never its own."""

    value: Tensor  # scalar, with its graph
    metrics: Tally


@dataclass(frozen=True)
class Trained:
    """One role that an algorithm trains."""

    loss: Callable[[Batch, Any], Loss]  # of a micro-batch and the role's outputs on it (engine/protocol.py)
    learning_rate: float
    first_step: int = 0  # before this update the role's loss is measured, without gradient


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
        """What a checkpoint keeps: all of an Experience; nothing where collecting again gives the same examples."""
        ...


class Algorithm(Protocol):
    """What a method computes: five methods, and a loss for each role. The loop knows nothing else of an algorithm.

    `collect` and `minibatch` are functions of (seed, `at`) alone, or a resumed run would be another. `at` is the loop's
    own: before `used_up` is called its `update` counts the update just tried, and its `step` where it was applied.
    """

    trained: Mapping[str, Trained]  # by role of run.modules, in the order in which their losses are computed
    temperature: float  # divides the logits of every log-probability
    reads_reference: bool  # whether the loop adds the reference's log-probabilities (B, T) to each batch: ref_logprobs

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
