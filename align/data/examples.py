"""What methods learn from, made of the rows on one side of the split: prompts, pairs, demonstrations, labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from align.config import RankedPairs, Shape
from align.data.reader import Read
from align.types import Completion, Pair, Prompt


@dataclass(frozen=True)
class Side:
    """The rows on one side of the split, in their order, as each kind of method reads them."""

    prompts: list[Prompt]  # each once
    pairs: list[Pair]
    demonstrations: list[Completion]
    labelled: list[Completion]  # with their labels, where the rows have some

    def given(self) -> Iterator[tuple[Prompt, tuple[tuple[int, ...], ...]]]:
        """Yield prompts with the token ids beside them: of labelled completions, else of pairs and what is in none."""
        if self.labelled:
            yield from ((c.prompt, (c.ids,)) for c in self.labelled)
            paired = {(c.prompt.id, c.ids) for c in self.labelled}
            pairs = [pair for pair in self.pairs if (pair.prompt.id, pair.chosen_ids) not in paired]
        else:
            pairs, paired = self.pairs, set()
        yield from ((p.prompt, (p.chosen_ids, p.rejected_ids)) for p in pairs)
        paired |= {(pair.prompt.id, pair.chosen_ids) for pair in self.pairs}
        yield from ((c.prompt, (c.ids,)) for c in self.demonstrations if (c.prompt.id, c.ids) not in paired)
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

    def pairs(self, rows: Sequence[Read], counts: Counter[str] | None = None) -> list[Pair]:
        """Make the preference pairs of rows; `counts` gets ties, identical responses and rows without a partner."""
        counts = Counter() if counts is None else counts
        pairs = []
        for row in rows:
            if row.shape is Shape.preference:
                pairs.append(_pair(*row.completions))
            elif row.shape is Shape.ranked:
                pairs += self._ranked_pairs(row, counts)
        return [*pairs, *_paired([row for row in rows if row.shape is Shape.unpaired_preference], counts)]

    def _ranked_pairs(self, row: Read, counts: Counter[str]) -> Iterator[Pair]:
        """Yield the pairs of a ranked list, of the best first."""
        order = sorted(range(len(row.completions)), key=lambda i: -row.scores[i])  # stable: the first of equals is best
        every = list(combinations(order, 2))
        for better, worse in every if self._ranked is RankedPairs.all else every[: len(order) - 1]:
            if row.scores[better] == row.scores[worse]:
                counts["tied_pairs"] += 1
            else:
                yield from _differing(row.completions[better], row.completions[worse], counts)

    def _demonstrations(self, rows: Sequence[Read], last: bool) -> Iterator[Completion]:
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


def _pair(chosen: Completion, rejected: Completion) -> Pair:
    return Pair(chosen.prompt, chosen.text, rejected.text, chosen.ids, rejected.ids)


def _differing(chosen: Completion, rejected: Completion, counts: Counter[str]) -> Iterator[Pair]:
    if chosen.ids == rejected.ids:
        counts["identical_pairs"] += 1
    else:
        yield _pair(chosen, rejected)


def _paired(rows: Sequence[Read], counts: Counter[str]) -> Iterator[Pair]:
    """Pair the desirable completions of each prompt with its undesirable ones, in their order.

    As many pairs as the commoner kind has: every completion is used, and the scarcer kind as evenly as can be. One of
    the same text is no partner; the next one is, where there is any.
    """
    sides: dict[int, tuple[list[Completion], list[Completion]]] = {}
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
