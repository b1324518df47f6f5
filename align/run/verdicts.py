"""Judge what a run learns from and whether it learns: lost rows, a reward model at chance, updates without gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, ones_like

from align.callbacks.base import Callback
from align.config import Config, Examples
from align.errors import WARNING, Verdict
from align.evaluation.intervals import Bootstrap
from align.numbers import normal_quantile, number
from align.types import Completion

ENOUGH = 100  # held-out prompts with a pair, from which on a reward model can be refused as chance


class Watch(Callback):
    """Notes whether any update of the policy had a gradient, and whether any sampled response came to its end."""

    def __init__(self) -> None:
        self.updates = 0
        self.moved = 0
        self._ended: list[float] = []  # shares of the rollouts' responses

    def on_step(self, record: Mapping[str, Any]) -> None:
        if "policy/grad_norm" in record:
            self.updates += 1
            self.moved += record["policy/grad_norm"] > 0
        if "response/eos_rate" in record:
            self._ended.append(record["response/eos_rate"])

    @property
    def all_cut(self) -> bool:
        """Whether responses were sampled and every one was cut at its limit."""
        return bool(self._ended) and max(self._ended) == 0

    @property
    def learned(self) -> bool | None:
        """Whether an update had a gradient; None where there was none to see, as in a run resumed at its end."""
        return self.moved > 0 if self.updates else None


def lost_rows(config: Config, counts: Mapping[str, int]) -> Iterator[Verdict]:
    """Judge the shares of rows and responses that a limit drops or cuts."""
    bound = config.verdicts.lost
    prompts = counts["train_prompts"] + counts["held_out_prompts"]
    shares = (
        ("rows are dropped, their prompts too long", counts["long_prompts_dropped"], counts["rows"], "prompt"),
        ("prompts lose their first tokens", counts["long_prompts_truncated"], prompts, "prompt"),
        ("given responses lose their end", counts["responses_cut"], counts["responses"], "response"),
    )
    for what, n, of, side in shares:
        if of and n / of > bound:
            yield Verdict(WARNING, f"{number(n / of)} of the {what}", n / of, f"data.max_{side}_tokens")


def untrained_sources(sources: Mapping[str, Mapping[str, int]]) -> Iterator[Verdict]:
    """Judge the sources of a mixture of which nothing is trained on."""
    for name, own in sources.items():
        if not own["train"]:
            what = f"of the {own['taken']} rows taken, {own['dropped']} dropped, {own['held_out']} held out"
            yield Verdict(WARNING, f"nothing of data.mixture.{name} is trained on: {what}", 0.0, f"data.mixture.{name}")


def one_sided(config: Config, labelled: Sequence[Completion]) -> Iterator[Verdict]:
    """Judge labelled completions of one kind alone, where a method learns from both."""
    good = sum(one.label for one in labelled)
    if config.method.learns_from is Examples.labels and labelled and good in (0, len(labelled)):
        kind = "desirable" if good else "undesirable"
        what = f"all {len(labelled)} labelled completions are {kind}: {config.method.name} learns from both kinds"
        yield Verdict(WARNING, what, float(good), "data.label_column")


@dataclass(frozen=True)
class PairAccuracy:
    """Share of held-out pairs that a reward model has right, with its interval over prompts."""

    accuracy: float
    low: float
    high: float
    prompts: int  # different ones among the pairs

    @classmethod
    def of_outcomes(cls, outcomes: Tensor, prompts: Sequence[int], interval: Bootstrap) -> PairAccuracy:
        """Measure by outcomes (n,), 1 = right and 0.5 = tie, resampled by their prompts (n,)."""
        found, n = interval.ratio("accuracy", outcomes, ones_like(outcomes), prompts), len(set(prompts))
        accuracy, low, high = found["accuracy"], found["accuracy_low"], found["accuracy_high"]
        assert accuracy is not None
        if low is None or high is None:  # of a single prompt
            return cls.of_mean(accuracy, n, interval.confidence)
        return cls(accuracy, low, high, n)

    @classmethod
    def of_mean(cls, accuracy: float, prompts: int, confidence: float) -> PairAccuracy:
        """Approximate where outcomes are not stored, normally: pairs of a prompt are correlated, so prompts count."""
        half = normal_quantile(confidence) * math.sqrt(max(accuracy * (1 - accuracy), 1e-9) / prompts)
        return cls(accuracy, max(0.0, accuracy - half), min(1.0, accuracy + half), prompts)

    def as_json(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        interval = f"[{number(self.low)}, {number(self.high)}]"
        return f"{number(self.accuracy)} {interval} on held-out pairs of {self.prompts} prompts"


def chance_verdict(found: PairAccuracy, key: str) -> Verdict | None:
    """Judge a reward model that the run learns from; None where it is better than chance."""
    if found.low > 0.5:
        return None
    return Verdict(WARNING, f"the reward model is not shown to be better than chance: {found}", found.accuracy, key)


def judge_verdict(found: PairAccuracy) -> Verdict | None:
    """Judge the reward model that only judges; None where it is better than chance."""
    if found.low > 0.5:
        return None
    what = f"the judge is not shown to be better than chance, so its scores and a win rate by them say nothing: {found}"
    return Verdict(WARNING, what, found.accuracy, "evaluation.reward_model")
