"""Judge whether an evaluation is large enough for the differences that it shows, and how large it would have to be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from align.config import Config
from align.data.examples import Side
from align.errors import NOTE, Verdict
from align.numbers import number

PROMPTS, PAIRS = "evaluation.num_prompts", "evaluation.num_pairs"
_JUDGED = {"proxy": "proxy reward", "gold": "gold reward", "evaluation": "evaluation reward"}


@dataclass(frozen=True)
class HeldOut:
    """What a run's data holds out, all or some of which an evaluation takes."""

    prompts: int
    pairs: int

    @classmethod
    def of(cls, side: Side) -> HeldOut:
        return cls(len(side.prompts), len(side.pairs))


@dataclass(frozen=True)
class _Shown:
    """A difference that an evaluation shows, and the ends of its interval; both are 0 without a change."""

    text: str  # the figure with its interval
    move: float
    low: float | None
    high: float | None
    bound: float  # above which the difference is worth a word

    def unclear(self, prompts: int, least: int) -> bool:
        """Return whether it looks like a difference and is not shown to be one."""
        if not abs(self.move) > self.bound:
            return False
        return prompts < least or self.low is None or self.high is None or self.low <= 0 <= self.high

    @property
    def times(self) -> float:
        """Compute how many times as large an evaluation has an interval that ends where there is no change."""
        if self.low is None or self.high is None:
            return 1.0
        return ((self.move - self.low if self.move > 0 else self.high - self.move) / self.move) ** 2


def too_small(config: Config, evaluation: Mapping[str, Any], held_out: HeldOut) -> Iterator[Verdict]:
    """Note differences beyond `verdicts.share` and `verdicts.gain` that the intervals do not tell from none.

    An interval narrows with the square root of its prompts, from which follows how many would be enough. The pairs of
    one prompt depend on each other: they are counted by their prompts here too.

    Args:
        evaluation: What evaluation.json holds.
    """
    preference = evaluation["after"].get("preference") or {}
    pairs, their_prompts = preference.get("pairs", 0), preference.get("prompts", 0)
    found = list(_of_pairs(config, preference))
    yield from _noted(config, found, PAIRS, (pairs, their_prompts), held_out.pairs)
    prompts = evaluation["settings"]["num_prompts"]
    found = list(_of_responses(config, evaluation, prompts))
    yield from _noted(config, found, PROMPTS, (prompts, prompts), held_out.prompts)


def _of_pairs(config: Config, preference: Mapping[str, Any]) -> Iterator[_Shown]:
    figures = preference.get("log_ratio") or {}
    ends = figures.get("accuracy_low"), figures.get("accuracy_high")
    yield from _share("held-out accuracy", figures.get("accuracy"), ends, config.verdicts.share)


def _of_responses(config: Config, evaluation: Mapping[str, Any], prompts: int) -> Iterator[_Shown]:
    rate = evaluation["after"].get("win_rate") or {}
    yield from _share("win rate", rate.get("mean"), (rate.get("low"), rate.get("high")), config.verdicts.share)
    judge, moved = rate.get("judge"), evaluation["delta"].get("reward") or {}
    move, error = moved.get(f"{judge}_mean"), (evaluation["before"].get("reward") or {}).get(f"{judge}_se")
    if move is None or not error:
        return
    low, high = moved.get(f"{judge}_mean_low"), moved.get(f"{judge}_mean_high")
    text = f"{_JUDGED[str(judge)]} {number(move, signed=True)}{_between(low, high)}"
    yield _Shown(text, move, low, high, config.verdicts.gain * error * math.sqrt(prompts))


def _share(name: str, share: float | None, ends: tuple[float | None, float | None], bound: float) -> Iterator[_Shown]:
    if share is None:
        return
    low, high = (None if end is None else end - 0.5 for end in ends)
    yield _Shown(f"{name} {number(share)}{_between(*ends)}", share - 0.5, low, high, bound)


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{number(low)}, {number(high)}]"


def _noted(config: Config, found: list[_Shown], key: str, size: tuple[int, int], there: int) -> Iterator[Verdict]:
    """Note the unclear ones of the differences that stand on the same `size`: items, and prompts they belong to."""
    least = math.ceil(math.log2(2 / (1 - config.evaluation.confidence)))  # of all one way, by the sign test
    items, prompts = size
    unclear = [shown for shown in found if shown.unclear(prompts, least)]
    if not unclear:
        return
    enough = _rounded_up(max(items * max(shown.times for shown in unclear), items / prompts * least))
    what = key.rpartition("_")[2]
    texts = " and ".join(shown.text for shown in unclear)
    data = f"and the data holds out {there}" if there >= enough else f"but the data holds out only {there}"
    yield Verdict(
        NOTE,
        f"the evaluation is too small for what it shows: {texts} on {items} {what if items > 1 else what[:-1]}, "
        f"which may be no change; about {enough} {what} would tell, {data}",
        unclear[0].move,
        key if there >= enough else _source(config),
    )


def _rounded_up(n: float) -> int:
    """Round up to two significant digits."""
    unit = 10 ** max(0, math.floor(math.log10(n)) - 1)
    return math.ceil(n / unit) * unit


def _source(config: Config) -> str:
    """Return the key that decides how much is held out."""
    if config.data.held_out_path is not None:
        return "data.held_out_path"
    return "data.held_out_split" if config.data.held_out_split is not None else "data.held_out_fraction"
