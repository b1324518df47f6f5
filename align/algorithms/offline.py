"""What DPO and SFT share: minibatches of preference pairs, in a random order that depends on the seed alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from align.config.methods import OfflineConfig
from align.loop.trainer import Trainer
from align.metrics import Tally
from align.streams import permutation
from align.types import Pair


class OfflineTrainer(Trainer):
    """One pass over the pairs after another; `rollout` in the records counts the passes."""

    method: OfflineConfig

    @abstractmethod
    def lengths(self, pairs: Sequence[Pair]) -> Tensor:
        """(n,) tokens that each pair sends through the policy."""

    @abstractmethod
    def backward(self, pairs: Sequence[Pair], batch: Sequence[Pair], tally: Tally) -> float:
        """Forward and backward of a micro-batch of the minibatch `batch`, normalised over all of it."""

    def minibatch(self, index: int) -> list[Pair]:
        """Pairs without replacement; the last batch of a pass is completed from the next one."""
        size, pairs = self.method.batch_size, self.run.pairs
        places = range(index * size, (index + 1) * size)
        passes = {place // len(pairs) for place in places}
        orders = {n: permutation(len(pairs), self.config.seed, "pairs", n) for n in passes}
        return [pairs[int(orders[place // len(pairs)][place % len(pairs)])] for place in places]

    def update(self) -> Mapping[str, float] | None:
        while True:
            metrics = self._one_update(self.minibatch(self.progress.update))
            self.progress.update += 1
            self.progress.rollout = self.progress.update * self.method.batch_size // len(self.run.pairs)
            if metrics is not None:
                return metrics

    def _one_update(self, batch: Sequence[Pair]) -> dict[str, float] | None:
        return self.apply_update(
            self.lengths(batch),
            lambda index, tally: self.backward([batch[i] for i in index.tolist()], batch, tally),
            lambda: [{"prompt_id": p.prompt.id, "chosen": p.chosen, "rejected": p.rejected} for p in batch],
        )

    def state(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        return {}, {}

    def load_state(self, folder: Path, state: Mapping[str, Any]) -> None:
        """The counters of `Progress` say it all."""
