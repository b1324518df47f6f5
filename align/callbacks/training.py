"""Where a training stands: its updates, how long they take and what is left."""

import math
from collections.abc import Mapping
from typing import Any

from align.activity import SAMPLING, TRL_UPDATE, UPDATE, Work
from align.numbers import clock, number

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
SPEED, SAMPLING_SPEED = "throughput/policy_tokens_per_second", "throughput/sampled_tokens_per_second"
TOLD = 0.1  # share of an update from which on its own pace says more than the mean of those before


class Training:
    """Updates of one training, seen at the times that its owner gives: no clock of its own."""

    def __init__(
        self, name: str, *, start: int, total: int, now: float, updates_per_rollout: int = 1, measured: str = ""
    ) -> None:
        """`measured` are figures of the start model, which are shown until there are any of the first rollout."""
        self.name, self.step, self.total = name, start, total
        self.since = now
        self._measured, self._figures = measured, dict[str, float]()
        self._start, self._per_rollout = start, updates_per_rollout
        self._last = now
        self._updating = 0.0  # seconds of all updates, without what comes between them
        self._tokens: float | None = None  # through the policy, at the last record
        self._work, self._work_since = Work(), now  # under way since the last record
        self._sampling: float | None = None  # seconds that the first rollout takes to be sampled

    @property
    def done(self) -> int:
        """Updates of this sitting."""
        return self.step - self._start

    @property
    def figures(self) -> str:
        """The latest figures, of an update that is done once there is one."""
        known = any(label == "reward" and name in self._figures for name, label in SHOWN)
        return "  ".join(part for part in ("" if known else self._measured, _shown(self._figures)) if part)

    def record(self, record: Mapping[str, Any], now: float, total: int) -> None:
        """Take up the record of an update; `total` is how many there will be."""
        passed = now - self._last
        own = dict(record)
        tokens = own.get("tokens/policy")
        if SPEED not in own and tokens is not None and passed > 0:
            own[SPEED] = (tokens - (self._tokens or 0.0)) / passed
        self.step, self.total, self._last, self._tokens = record["step"], total, now, tokens
        self._work, self._measured = Work(), ""
        self._updating += record.get("time/update", passed)
        self._figures = own

    def work(self, work: Work, since: float, now: float) -> None:
        """Take up what is under way, and has been from `since` on."""
        self._work, self._work_since = work, since
        if self.done:  # from then on a whole update's figures are worth more than a part's
            return
        self._figures |= work.figures
        if work.tokens and work.share and now > since:
            self._figures[SPEED] = work.tokens * work.share / (now - since)
        if work.what == SAMPLING and SAMPLING_SPEED in work.figures:
            self._figures.pop(SPEED, None)  # of the prompts
        if work.what == SAMPLING and work.share and not work.phase:
            self._sampling = (now - since) / work.share

    def left(self, now: float) -> str:
        """Format how long it is to the last update; empty before anything is known, and where nothing is left."""
        if self.step >= self.total:
            return ""
        seconds = self.seconds_left(now)
        if seconds is not None:
            return f"about {clock(max(1.0, seconds))} left"
        if self._sampling is None:
            return ""
        # The length of an update is unknown before the first one: the rollouts alone are a bound.
        rollouts = math.ceil((self.total - self._start) / self._per_rollout)
        least = self._sampling * rollouts - (now - self.since)
        return f"more than {clock(least)} left" if least >= 1.0 else ""

    def seconds_left(self, now: float) -> float | None:
        """Estimate the seconds to the last update, None before anything is known.

        Updates and what comes between them (a rollout, an evaluation) have means of their own: one rollout may serve
        many updates, and those after the first are not as long as it was.
        """
        updating = self._work.what in (UPDATE, TRL_UPDATE)
        if not self.done and not (updating and self._work.share):
            return None
        elapsed = (self._work_since if updating else self._last) - self.since  # but for what is under way
        spent = min(self._updating, elapsed)
        update = spent / self.done if self.done else (now - self._work_since) / self._work.share
        rollouts = math.ceil((self.done + updating) / self._per_rollout)
        in_all = math.ceil((self.total - self._start) / self._per_rollout)
        between = (elapsed - spent) / rollouts
        begun = math.ceil((self.done + 1) / self._per_rollout)  # with the one that the next update is on
        left = (self.total - self.step - 1) * update + max(0, in_all - begun) * between
        if updating:
            return left + self._rest(update, now - self._work_since)
        expected = update + (begun - rollouts) * between
        passed = now - self._last
        return left + (max(update, expected - passed) if self._work.what else abs(expected - passed))

    def _rest(self, mean: float, passed: float) -> float:
        """Estimate the seconds that are left of an update: by its own pace, or by the mean before that says anything.

        One that does not report how far it is, and is late, is taken to last as long again as it is late.
        """
        share = self._work.share
        if share >= TOLD or (share and passed > mean) or not self.done:
            return passed / share * (1 - share)
        return abs(mean - passed)


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
    elif SAMPLING_SPEED in record:
        shown.append(f"{record[SAMPLING_SPEED]:.0f} tokens/s sampled")
    return "  ".join(shown)


def updates_per_rollout(config: Mapping[str, Any]) -> int:
    """Compute how many updates one rollout serves under a run's configuration; 1 where nothing is sampled."""
    method, rollout = config.get("method", {}), config.get("rollout", {})
    size = method.get("minibatch_size")
    return max(1, method.get("epochs", 1) * rollout["batch_size"] // size) if size and rollout else 1


def samples(config: Mapping[str, Any]) -> bool:
    """Return whether a run's method learns from responses that it samples."""
    return bool(config.get("method", {}).get("minibatch_size"))
