"""What learning from given responses has in common: minibatches of pairs, in a random order of the seed's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from align.config.methods import OfflineConfig
from align.data.collate import collate
from align.loop.context import LoopContext
from align.loop.protocol import Progress, Samples, Trained
from align.streams import in_passes
from align.types import Batch, Completion, Pair, Size

BOTH = ("chosen_ids", "rejected_ids")


@dataclass(frozen=True)
class PairExamples:
    """Pairs of which a loss reads the `sides`; batches are padded as they are asked for."""

    pairs: Sequence[Pair]
    sides: Sequence[str]
    pad_id: int
    device: torch.device
    metrics: Mapping[str, float] = field(default_factory=dict)
    prompts: None = None  # a pair's two sides are read as rows of their own

    @cached_property
    def lengths(self) -> Tensor:
        """(n,) prompt and response tokens of all sides."""
        return torch.tensor([p.prompt.tokens * len(self.sides) for p in self.pairs]) + self.response_tokens

    @cached_property
    def response_tokens(self) -> Tensor:
        """(n,) response tokens of all sides."""
        return torch.tensor([sum(p.tokens(side) for side in self.sides) for p in self.pairs])

    def rows(self, index: Tensor, size: Size) -> Batch:
        """The pairs that `index` names: all chosen responses, then all rejected ones."""
        picked = [self.pairs[i] for i in index.tolist()]
        rows = [(p.prompt.input_ids, getattr(p, side)) for side in self.sides for p in picked]
        return Batch(collate(rows, self.pad_id, self.device), self.columns(index), size)

    def columns(self, index: Tensor) -> dict[str, Tensor]:
        """What a loss reads beside the tokens."""
        return {}

    def describe(self, index: Tensor, decode: Callable[[Sequence[int]], str]) -> Samples:
        """Texts of the pairs that `index` names."""
        picked = [self.pairs[i] for i in index.tolist()]
        return [{"prompt_id": p.prompt.id, "chosen": p.chosen, "rejected": p.rejected} for p in picked]

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: the data are there."""
        return {}


@dataclass(frozen=True)
class Demonstrations:
    """Completions that are imitated; batches are padded as they are asked for."""

    given: Sequence[Completion]
    pad_id: int
    device: torch.device
    metrics: Mapping[str, float] = field(default_factory=dict)
    prompts: None = None

    @cached_property
    def lengths(self) -> Tensor:
        """(n,) prompt and response tokens."""
        return torch.tensor([one.prompt.tokens for one in self.given]) + self.response_tokens

    @cached_property
    def response_tokens(self) -> Tensor:
        """(n,) response tokens."""
        return torch.tensor([one.tokens for one in self.given])

    def rows(self, index: Tensor, size: Size) -> Batch:
        """The completions that `index` names."""
        rows = [(one.prompt.input_ids, one.ids) for one in (self.given[i] for i in index.tolist())]
        return Batch(collate(rows, self.pad_id, self.device), {}, size)

    def describe(self, index: Tensor, decode: Callable[[Sequence[int]], str]) -> Samples:
        """Texts of the completions that `index` names."""
        picked = [self.given[i] for i in index.tolist()]
        return [{"prompt_id": one.prompt.id, "response": one.text} for one in picked]

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: the data are there."""
        return {}


class Offline:
    """Base of the algorithms that are a loss alone; a subclass names the sides it reads and the roles it trains."""

    sides: Sequence[str] = BOTH
    temperature = 1.0
    reads_reference = False
    trained: Mapping[str, Trained]

    def __init__(self, run: LoopContext) -> None:
        assert isinstance(run.config.method, OfflineConfig)
        self.run, self.method = run, run.config.method

    def collect(self, at: Progress) -> PairExamples | Demonstrations:
        """All pairs."""
        return PairExamples(self.run.pairs, self.sides, self.run.chat.pad_id, self.run.accelerator.device)

    def minibatch(self, at: Progress, n: int) -> Tensor:
        """Pairs without replacement; the last minibatch of a pass is completed from the next one."""
        size = self.method.batch_size
        return torch.tensor(in_passes(n, at.update * size, size, self.run.config.seed, "pairs"))

    def used_up(self, at: Progress, n: int, metrics: Mapping[str, float] | None) -> bool:
        """Never; counts the passes over the pairs."""
        at.rollout = at.update * self.method.batch_size // n
        return False

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """The loop's counters say it all."""
