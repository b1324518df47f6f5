"""Judge what a run learns from and whether it learns: lost rows, a reward model at chance, updates without gradient."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from align.callbacks.base import Callback
from align.config import Config
from align.errors import WARNING, Verdict
from align.evaluation.verdicts import ERRORS
from align.numbers import number

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
    """Judge the shares of pairs and responses that a limit drops or cuts."""
    bound, pairs = config.verdicts.lost, counts["train"] + counts["held_out"]
    prompts = counts["train_prompts"] + counts["held_out_prompts"]
    shares = (
        ("pairs are dropped, their prompts too long", counts["long_prompts_dropped"], counts["rows"], "prompt"),
        ("prompts lose their first tokens", counts["long_prompts_truncated"], prompts, "prompt"),
        ("given responses lose their end", counts["responses_cut"], 2 * pairs, "response"),
    )
    for what, n, of, side in shares:
        if of and n / of > bound:
            yield Verdict(WARNING, f"{number(n / of)} of the {what}", n / of, f"data.max_{side}_tokens")


def chance(accuracy: float, prompts: int) -> tuple[float, float]:
    """Compute a 95% interval of an accuracy: pairs of one prompt are correlated, so prompts count, not pairs."""
    half = ERRORS * math.sqrt(max(accuracy * (1 - accuracy), 1e-9) / prompts)
    return max(0.0, accuracy - half), min(1.0, accuracy + half)


def chance_verdict(accuracy: float | None, prompts: int, key: str) -> Verdict | None:
    """Judge a reward model by its accuracy on held-out pairs of `prompts` distinct prompts; None where it is above."""
    if accuracy is None or not prompts:
        return None
    low, high = chance(accuracy, prompts)
    if low > 0.5:
        return None
    interval = f"{number(accuracy)} [{number(low)}, {number(high)}] on held-out pairs of {prompts} prompts"
    return Verdict(WARNING, f"the reward model is not shown to be better than chance: {interval}", accuracy, key)
