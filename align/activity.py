"""Progress inside long work: counts from where the work is done to whoever shows them. Standard library only."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

T = TypeVar("T", bound=Sized)
EVERY = 0.25  # seconds between two reports of the same work, at least
SLOW = 1.0  # seconds of one unit of work, from which on its inside is reported
UPDATE, TRL_UPDATE = "rows through the update", "micro-batches through TRL's update"
SAMPLING = "responses sampled"


@dataclass(frozen=True)
class Work:
    """What is being done, and how far it has come."""

    what: str = ""  # "responses sampled"; empty = nothing
    done: int = 0
    total: int = 0  # 0 = it cannot be counted
    detail: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)  # metrics of the training, over what is done
    tokens: int = 0  # in all, of an update; 0 = not counted
    phase: str = ""  # which this is a part of: "evaluation"
    share: float = 0.0  # of the phase that is done, 0 to 1; of the work itself outside of any

    def __str__(self) -> str:
        count = f" {self.done}/{self.total}" if self.total else ""
        phase = f"{self.phase}: " if self.phase else ""
        return f"{phase}{self.what}{count}{f' ({self.detail})' if self.detail else ''}"


class Activity:
    """Channel of one run from its loop, engine and evaluation to a listener; silent without one.

    Reports are numbers that the work has on the host anyway, and at most one every EVERY seconds is passed on.
    """

    def __init__(self, listen: Callable[[Work], None] | None = None, clock: Callable[[], float] = time.monotonic):
        self._listen, self._clock = listen, clock
        self._work = Work()
        self._moved = self._looked = -float("inf")  # seconds, of the last report of a count, and of one inside of it
        self._phase = ""
        self._parts: Mapping[str, float] = {}  # of the phase: how much work each is, in any unit
        self._part: str | None = None
        self._ended: set[str] = set()
        self._pass = (0.0, 0.0)  # shares of the work at which the pass through a model begins and ends
        self._one_pass = 0.0  # share of the work that a pass through a model takes

    @property
    def heard(self) -> bool:
        """Return whether anybody listens."""
        return self._listen is not None

    @property
    def due(self) -> bool:
        """Return whether a report of the same work would be passed on, for one that costs something to make."""
        return self._listen is not None and self._clock() - self._moved >= EVERY

    def advance(
        self,
        what: str,
        done: int = 0,
        total: int = 0,
        *,
        detail: str = "",
        share: float | None = None,
        figures: Mapping[str, float] | None = None,
        tokens: int = 0,
    ) -> None:
        """Report that `done` of `total` units of `what` are done; `share` where their ratio is no measure of time."""
        if self._listen is None:
            return
        own = share if share is not None else done / total if total else 0.0
        self._pass, self._one_pass = (own, own), 0.0
        goes_on = what == self._work.what and done >= self._work.done  # else it is other work, or the same anew
        if goes_on and not self.due:
            return
        self._work = Work(what, done, total, detail, figures or {}, tokens, self._phase, self._of_phase(own))
        self._moved = self._looked = self._clock()
        self._listen(self._work)

    def expect(self, share: float, passes: float) -> None:
        """Announce the next unit of work: after so many passes through a model, `share` of the work is done."""
        self._pass = (self._pass[1], self._pass[1])
        self._one_pass = (share - self._pass[1]) / passes

    def begin(self, passes: float = 1.0) -> None:
        """Announce the next pass of the expected ones, or one that takes the time of several."""
        begin = self._pass[1]
        self._pass = (begin, begin + passes * self._one_pass)

    def inside(self, detail: str, done: float = 0.0) -> None:
        """Report a place inside the unit of work that was begun last, where that unit takes long.

        `done` is the share of the pass through a model that was begun last.
        """
        if self._listen is None or not self._work.what:
            return
        now = self._clock()
        if now - self._looked >= EVERY and now - self._moved > SLOW:
            self._looked = now
            begin, end = self._pass
            share = self._of_phase(begin + (end - begin) * done)
            detail = f"{self._work.detail}, {detail}".removeprefix(", ")
            self._listen(replace(self._work, detail=detail, share=share))

    def over(self, groups: Iterable[T], what: str, total: int) -> Iterator[T]:
        """Yield groups of rows, and report how many of all `total` rows are done."""
        done = 0
        for group in groups:
            self.advance(what, done, total)
            yield group
            done += len(group)
        self.advance(what, done, total)

    def idle(self) -> None:
        """Report that nothing is under way that counts."""
        self._work = Work()
        if self._listen is not None:
            self._listen(Work())

    @contextmanager
    def phase(self, name: str, parts: Mapping[str, float]) -> Iterator[None]:
        """Make what is reported inside a part of the phase `name`; `parts` says how much work each of them is."""
        self.idle()
        self._phase, self._parts, self._ended = name, parts, set()
        try:
            yield
        finally:
            self._phase, self._parts, self._part = "", {}, None
            self.idle()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is reported inside as the phase's part `name`."""
        self._part = name
        yield
        self._ended.add(name)
        self._part = None

    def _of_phase(self, own: float) -> float:
        whole = sum(self._parts.values())
        if not whole:
            return 0.0 if self._phase else own  # of a phase whose work nobody knows
        under_way = own * self._parts.get(self._part or "", 0.0)
        return (sum(self._parts.get(name, 0.0) for name in self._ended) + under_way) / whole
