"""TRL's trainers that learn from given responses: DPO and KTO."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trl
from datasets import Dataset

from align.algorithms.trl.method import TRLMethod
from align.config.trl import TRLDPOConfig, TRLKTOConfig, TRLKTOLoss, TRLPairsConfig
from align.errors import InputError
from align.streams import permutation
from align.types import Pair


class _PreTokenised:
    """TRL would render the pairs again, with what the template writes behind the end token as part of the response."""

    def _prepare_dataset(self, dataset: Dataset, *_arguments: Any) -> Dataset:
        return dataset


class _DPOTrainer(_PreTokenised, trl.DPOTrainer):
    pass


class _KTOTrainer(_PreTokenised, trl.KTOTrainer):
    pass


class TRLPairs(TRLMethod):
    method: TRLPairsConfig

    @property
    def micro(self) -> int:
        """Pairs per forward and backward."""
        return self.method.micro_batch_size or self.method.batch_size

    def place(self, step: int) -> dict[str, int]:
        return {"rollout": step * self.method.batch_size // len(self.run.pairs), "update": step}

    def common(self) -> dict[str, Any]:
        """What both trainers get. With LoRA TRL makes the reference itself, of the same PEFT model."""
        roles = self.run.roles
        return {
            "model": roles.policy.whole,
            "ref_model": roles.reference.model if roles.policy.separate else None,
            "train_dataset": self.data,
            "processing_class": self.tokenizer(),
        }


class TRLDPO(TRLPairs):
    """Direct preference optimisation (arXiv 2305.18290) and the losses that TRL has beside it."""

    method: TRLDPOConfig

    def rows(self) -> Iterator[dict[str, Any]]:
        for p in self.run.pairs:
            yield {"prompt_ids": p.prompt.input_ids, "chosen_ids": p.chosen_ids, "rejected_ids": p.rejected_ids}

    def build(self, scratch: Path) -> Any:
        arguments = trl.DPOConfig(
            **self.arguments(scratch, rows=self.micro, update=self.method.batch_size),
            max_length=None,
            loss_type=[self.method.loss.value],
            label_smoothing=self.method.label_smoothing,
        )
        return _DPOTrainer(args=arguments, **self.common())


class TRLKTO(TRLPairs):
    """Kahneman-Tversky optimisation (arXiv 2402.01306): chosen responses are desirable, rejected ones are not.

    Labelled completions take the place of pairs where the data have some, two for each pair of a minibatch.
    """

    method: TRLKTOConfig

    def place(self, step: int) -> dict[str, int]:
        if not self.run.labelled:
            return super().place(step)
        return {"rollout": step * 2 * self.method.batch_size // len(self.run.labelled), "update": step}

    def rows(self) -> Iterator[dict[str, Any]]:
        """The examples in the order in which TRL reads them."""
        return self._of_labels() if self.run.labelled else self._of_pairs()

    def _of_labels(self) -> Iterator[dict[str, Any]]:
        """Whole micro-batches in a random order of the seed's, both labels spread evenly over it.

        A row's KL is read from the nearest completion before it that answers another prompt.

        Raises:
            InputError: All completions answer one prompt.
        """
        given, size = self.run.labelled, 2 * self.micro
        if self.method.loss is TRLKTOLoss.kto and len({one.prompt.id for one in given}) == 1:
            raise InputError("data.path", "completions of a single prompt", "of two or more: KTO's KL needs them")
        order = _spread([one.label for one in given], permutation(len(given), self.config.seed, "labels", 0).tolist())
        for place in range(math.ceil(len(order) / size) * size):
            one = given[order[place % len(order)]]
            row = {"prompt_ids": one.prompt.input_ids, "completion_ids": one.ids, "label": one.label}
            if self.method.loss is TRLKTOLoss.kto:
                before = (given[order[(place - back) % len(order)]] for back in range(1, len(order)))
                row["KL_completion_ids"] = next(other.ids for other in before if other.prompt.id != one.prompt.id)
            yield row

    def _of_pairs(self) -> Iterator[dict[str, Any]]:
        """Whole micro-batches in a random order that depends on the seed.

        KTO reads its KL from responses to other prompts: TRL takes those of the row before. All chosen responses of a
        micro-batch come first, so that no row stands behind another one of the same prompt.
        """
        pairs, size = self.run.pairs, self.micro
        order = permutation(len(pairs), self.config.seed, "pairs", 0).tolist()
        count = math.ceil(len(pairs) / size)
        for i in range(count):
            batch = [pairs[order[k % len(pairs)]] for k in range(i * size, (i + 1) * size)]
            yield from self._micro_batch(batch)

    def _micro_batch(self, batch: Sequence[Pair]) -> list[dict[str, Any]]:
        responses = [p.chosen_ids for p in batch] + [p.rejected_ids for p in batch]
        rows = [
            {"prompt_ids": p.prompt.input_ids, "completion_ids": ids, "label": i < len(batch)}
            for i, (p, ids) in enumerate(zip([*batch, *batch], responses, strict=True))
        ]
        if self.method.loss is TRLKTOLoss.kto:
            for i, row in enumerate(rows):
                row["KL_completion_ids"] = responses[i - 1]
        return rows

    def build(self, scratch: Path) -> Any:
        arguments = trl.KTOConfig(
            **self.arguments(scratch, rows=2 * self.micro, update=2 * self.method.batch_size),
            max_length=None,
            loss_type=self.method.loss.value,
            desirable_weight=self.method.desirable_weight,
            undesirable_weight=self.method.undesirable_weight,
        )
        return _KTOTrainer(args=arguments, **self.common())


def _spread(labels: Sequence[bool], order: Sequence[int]) -> list[int]:
    """Merge the indices of both labels, each in `order`, so that every stretch holds about the same share of both."""
    sides = [[i for i in order if labels[i] is label] for label in (True, False)]
    placed = [((rank + 0.5) / len(side), i) for side in sides for rank, i in enumerate(side)]
    return [i for _, i in sorted(placed, key=lambda one: one[0])]
