"""What methods learn from, made of the rows on one side of the split: prompts, pairs, demonstrations, labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from align.config import RankedPairs, Shape
from align.data.read import Read
from align.data.stored_examples import StoredCompletion, StoredPair, StoredPrompt
from align.types import Completion, Pair, Prompt


@dataclass(frozen=True)
class Side:
    """The rows on one side of the split, in their order, as each kind of method reads them."""

    prompts: Sequence[StoredPrompt]  # each once
    pairs: Sequence[StoredPair]
    demonstrations: Sequence[StoredCompletion]
    labelled: Sequence[StoredCompletion]  # with their labels, where the rows have some

    def given(self) -> Iterator[tuple[StoredPrompt, tuple[StoredCompletion, ...]]]:
        """Yield prompts with what is beside them: labelled completions, else pairs, and demonstrations in none."""
        given = set[int]()
        yield from ((one.prompt, (one,)) for one in self.labelled)
        given.update(one.place for one in self.labelled)
        for pair in self.pairs:
            if pair.completions[0].place not in given or not self.labelled:
                yield pair.prompt, pair.completions
        given.update(pair.completions[0].place for pair in self.pairs)
        yield from ((one.prompt, (one,)) for one in self.demonstrations if one.place not in given)
        if not self.labelled and not self.pairs and not self.demonstrations:
            yield from ((prompt, ()) for prompt in self.prompts)

    def without(self, prompts: Collection[int]) -> Side:
        """Leave out everything on the prompts of these ids."""
        return Side(
            [prompt for prompt in self.prompts if prompt.id not in prompts],
            [pair for pair in self.pairs if pair.prompt.id not in prompts],
            [c for c in self.demonstrations if c.prompt.id not in prompts],
            [c for c in self.labelled if c.prompt.id not in prompts],
        )


def prompts_of(given: Iterable[Pair | Completion]) -> list[Prompt]:
    """Return each prompt once, in order of first appearance."""
    return list({one.prompt.id: one.prompt for one in given}.values())


class Examples:
    """Makes sides and pairs of rows, each by its shape, and counts what makes no pair."""

    def __init__(self, ranked: RankedPairs) -> None:
        self._ranked = ranked

    def side(self, rows: Sequence[Read], counts: Counter[str], *, last: bool = False) -> Side:
        """Make what each kind of method learns from.

        Args:
            counts: Gets what makes no pair.
            last: Leave out the turns before the last one.
        """
        prompts = list({row.prompt.id: row.prompt for row in rows}.values())
        labelled = [c for row in rows if row.shape is Shape.unpaired_preference for c in row.completions]
        return Side(prompts, self.pairs(rows, counts), list(self._demonstrations(rows, last)), labelled)

    def pairs(self, rows: Sequence[Read], counts: Counter[str] | None = None) -> list[StoredPair]:
        """Make the preference pairs of rows; `counts` gets ties, identical responses and rows without a partner."""
        counts = Counter() if counts is None else counts
        pairs = list[StoredPair]()
        for row in rows:
            if row.shape is Shape.preference:
                pairs.append(StoredPair(*row.completions))
            elif row.shape is Shape.ranked:
                pairs += self._ranked_pairs(row, counts)
        return [*pairs, *_paired([row for row in rows if row.shape is Shape.unpaired_preference], counts)]

    def _ranked_pairs(self, row: Read, counts: Counter[str]) -> Iterator[StoredPair]:
        """Yield the pairs of a ranked list, of the best first."""
        order = sorted(range(len(row.completions)), key=lambda i: -row.scores[i])  # stable: the first of equals is best
        every = list(combinations(order, 2))
        for better, worse in every if self._ranked is RankedPairs.all else every[: len(order) - 1]:
            if row.scores[better] == row.scores[worse]:
                counts["tied_pairs"] += 1
            else:
                yield from _differing(row.completions[better], row.completions[worse], counts)

    def _demonstrations(self, rows: Sequence[Read], last: bool) -> Iterator[StoredCompletion]:
        """Yield what is imitated: chosen and best responses, desirable completions, turns of conversations."""
        for row in rows:
            match row.shape:
                case Shape.preference:
                    yield row.completions[0]
                case Shape.ranked:
                    yield row.completions[row.scores.index(max(row.scores))]
                case Shape.unpaired_preference | Shape.demonstration:
                    yield from () if last else row.earlier
                    yield from (c for c in row.completions if c.label)


def _differing(chosen: StoredCompletion, rejected: StoredCompletion, counts: Counter[str]) -> Iterator[StoredPair]:
    if chosen.ids == rejected.ids:
        counts["identical_pairs"] += 1
    else:
        yield StoredPair(chosen, rejected)


def _paired(rows: Sequence[Read], counts: Counter[str]) -> Iterator[StoredPair]:
    """Pair the desirable completions of each prompt with its undesirable ones, in their order.

    As many pairs as the commoner kind has: every completion is used, and the scarcer kind as evenly as can be. One of
    the same text is no partner; the next one is, where there is any.
    """
    sides: dict[int, tuple[list[StoredCompletion], list[StoredCompletion]]] = {}
    for row in rows:
        (completion,) = row.completions
        sides.setdefault(row.prompt.id, ([], []))[0 if completion.label else 1].append(completion)
    for good, bad in sides.values():
        if not good or not bad:
            counts["unpartnered"] += len(good) + len(bad)
            continue
        for i in range(max(len(good), len(bad))):
            one, others = (good[i], bad) if len(bad) <= len(good) else (bad[i], good)
            turned = [others[(i + shift) % len(others)] for shift in range(len(others))]
            partner = next((other for other in turned if other.ids != one.ids), turned[0])
            yield from _differing(*((one, partner) if one.label else (partner, one)), counts)
