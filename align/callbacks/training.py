"""Where a training stands: its updates, how long they take and what is left."""

import math
from collections.abc import Mapping
from typing import Any

from align.activity import Work
from align.numbers import number

SHOWN = (  # metrics by what they are called on the console; the first that a record has of each label
    ("reward/score_mean", "reward"),
    ("reward/paid_mean", "reward"),
    ("kl/per_response_k1", "KL"),
    ("dpo/loss", "loss"),
    ("kto/loss", "loss"),
    ("sft/loss", "loss"),
    ("reward_model/loss", "loss"),
    ("policy/total_loss", "loss"),
    ("policy/loss", "loss"),
    ("reward_model/accuracy", "accuracy"),
    ("reward_model/prefix_error", "squared error"),
    ("dpo/accuracy", "accuracy"),
    ("policy/learning_rate", "lr"),
    ("reward_model/learning_rate", "lr"),
)
SPEED = "throughput/policy_tokens_per_second"


class Training:
    """Updates of one training, seen at the times that its owner gives: no clock of its own."""

    def __init__(self, name: str, *, start: int, total: int, now: float, updates_per_rollout: int = 1) -> None:
        self.name, self.step, self.total = name, start, total
        self.since = now
        self.figures = ""
        self._start, self._per_rollout = start, updates_per_rollout
        self._last = now
        self._updating = 0.0  # seconds of all updates, without what comes between them
        self._tokens: float | None = None  # through the policy, at the last record
        self._share = 0.0  # of the update under way

    @property
    def done(self) -> int:
        """Updates of this sitting."""
        return self.step - self._start

    def record(self, record: Mapping[str, Any], now: float, total: int) -> None:
        """Take up the record of an update; `total` is how many there will be."""
        passed = now - self._last
        own = dict(record)
        tokens = own.get("tokens/policy")
        if SPEED not in own and tokens is not None and passed > 0:
            own[SPEED] = (tokens - (self._tokens or 0.0)) / passed
        self.step, self.total, self._last, self._tokens, self._share = record["step"], total, now, tokens, 0.0
        self._updating += record.get("time/update", passed)
        self.figures = _shown(own)

    def inside(self, work: Work) -> None:
        """Take up the figures of an update under way."""
        self._share = work.done / work.total if work.total else 0.0
        if not self.done:  # from then on a whole update's figures are worth more than a part's
            self.figures = _shown(work.figures)

    def seconds_left(self, now: float) -> float | None:
        """Estimate the seconds to the last update, None before anything is known.

        Updates and what comes between them (a rollout, an evaluation) have means of their own: one rollout may serve
        many updates, and those after the first are not as long as it was.
        """
        elapsed = self._last - self.since
        if self.done == 0:
            if self._share == 0 or self._per_rollout > 1:
                return None
            passed = now - self.since
            return max(0.0, passed / self._share * (self.total - self._start) - passed)
        between = max(0.0, elapsed - self._updating)
        rollouts = math.ceil(self.done / self._per_rollout)
        in_all = math.ceil((self.total - self._start) / self._per_rollout)
        left = (self.total - self.step) * min(self._updating, elapsed) / self.done
        left += max(0, in_all - rollouts) * between / rollouts
        return max(0.0, left - (now - self._last))


def _shown(record: Mapping[str, Any]) -> str:
    figures: dict[str, str] = {}
    for name, label in SHOWN:
        if name in record:
            value = float(record[name])
            figures.setdefault(label, f"{value:.1e}" if label == "lr" else number(value))
    if "reward" in figures and "KL" in figures:
        figures.pop("loss", None)  # which says little where advantages are centred
    shown = [f"{label} {value}" for label, value in figures.items()]
    if SPEED in record:
        shown.append(f"{record[SPEED]:.0f} tokens/s")
    return "  ".join(shown)


def updates_per_rollout(config: Mapping[str, Any]) -> int:
    """Compute how many updates one rollout serves under a run's configuration; 1 where nothing is sampled."""
    method, rollout = config.get("method", {}), config.get("rollout", {})
    size = method.get("minibatch_size")
    return max(1, method.get("epochs", 1) * rollout["batch_size"] // size) if size and rollout else 1
