"""Console display of a run: what is trained, and what is under way. Live on a terminal; elsewhere lines, not many."""

import atexit
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from align.activity import Activity, Work
from align.callbacks.training import Training
from align.numbers import clock

QUIET = 60.0  # seconds without a line, at most, where there is no terminal
FIRST = 10.0  # seconds of a training without one
_BEAT = 1.0  # seconds between two looks at whether a line is due
_KNOWN = 0.02  # share of a phase from which on the time left is estimated


class Display:
    """The console of one run, shared by its method, the models trained for it and its evaluations."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
        beats: bool = True,
    ) -> None:
        """With `beats` a thread of its own keeps it up to date; without, its owner calls `refresh`."""
        self._console = console or Console(stderr=True)
        self._clock, self._beats, self._enabled = clock, beats, enabled
        self.activity = Activity(self.work if enabled else None, clock)
        self._lock = threading.RLock()  # reports come from the run's thread, looks from another
        self._live: Live | None = None
        self._stopped: threading.Event | None = None
        self._training: Training | None = None
        self._work = Work()
        self._work_since = self._phase_since = clock()
        self._due = clock() + QUIET

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def now(self) -> float:
        """Seconds of the display's clock."""
        return self._clock()

    @property
    def live(self) -> bool:
        """Return whether the console is a terminal, on which lines would only repeat what is there."""
        return self._console.is_terminal

    def start(self) -> None:
        """Begin to show; nothing where that was done."""
        if not self._enabled or self._live is not None or self._stopped is not None:
            return
        if self.live:
            self._live = Live(
                get_renderable=self.rendered,
                console=self._console,
                auto_refresh=self._beats,
                refresh_per_second=2,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        elif self._beats:
            self._stopped = threading.Event()
            threading.Thread(target=self._beat, args=(self._stopped,), daemon=True).start()
        atexit.register(self.stop)  # restores the cursor however the process ends

    def stop(self) -> None:
        """End for good what `start` began, and give the cursor back."""
        if self._live is not None:
            self._live.stop()
        if self._stopped is not None:
            self._stopped.set()
        self._live = self._stopped = None
        atexit.unregister(self.stop)

    def begin(self, training: Training) -> None:
        """Show a training from its start on."""
        with self._lock:
            self._training, self._work = training, Work()
            self._due = min(self._due, self.now + FIRST)

    def end(self) -> None:
        """Show the training no longer."""
        with self._lock:
            self._training, self._work = None, Work()
            self._due = self.now + QUIET

    def work(self, work: Work) -> None:
        """Show what is under way in place of what was."""
        with self._lock:
            if work.what != self._work.what or work.done < self._work.done:
                self._work_since = self.now
            if work.phase != self._work.phase:
                self._phase_since = self.now
            self._work = work
            if self._training is not None and work.what:
                self._training.work(work, self._work_since, self.now)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._due = self.now + QUIET
        self._console.print(Text(text), soft_wrap=True)

    def refresh(self) -> None:
        """Draw anew on a terminal; elsewhere print a line where none was printed for a while."""
        if self._live is not None:
            self._live.refresh()
        elif not self.live and self.now >= self._due and (status := self.status()):
            self.line(status)

    def status(self) -> str:
        """Say in one line what is trained and what is under way; empty where nothing is."""
        with self._lock:
            parts = [] if self._training is None else [f"{self.head(self._training)}  {self.times(self._training)}"]
            if self._work.what:
                parts.append(f"{self._work}, {self._work_times()}")
        return "; ".join(parts)

    @staticmethod
    def head(training: Training) -> str:
        """Name a training, the place where it stands and its latest figures."""
        name = f"{training.name} " if training.name else ""
        return f"{name}step {training.step}/{training.total}" + (f"  {training.figures}" if training.figures else "")

    def times(self, training: Training) -> str:
        """Format the seconds that a training has taken, and those that it will take."""
        left = training.left(self.now)
        return f"{clock(self.now - training.since)} elapsed{left and f', {left}'}"

    def _work_times(self) -> str:
        """Seconds since this work began; what is left of the phase that it belongs to."""
        passed, share = self.now - self._phase_since, self._work.share
        shown = clock(self.now - self._work_since)
        if not self._work.phase or share < _KNOWN:
            return shown
        return f"{shown}, about {clock(max(1.0, passed / share * (1 - share)))} left of the {self._work.phase}"

    def rendered(self) -> RenderableType:
        """Draw the training as a bar over its figures, and below it what is under way."""
        with self._lock:
            grid = Table.grid(padding=(0, 2))
            training, work = self._training, self._work
            if training is not None:
                bar = Table.grid(padding=(0, 1))
                count = f"step {training.step}/{training.total}"
                done = ProgressBar(total=max(1, training.total), completed=training.step, width=20)
                bar.add_row(Text(training.name), done, Text(f"{count}  {self.times(training)}"))
                grid.add_row(bar)
                grid.add_row(Text(training.figures or "no figures before the first update"))
            if work.what:
                grid.add_row(Text(f"{work}, {self._work_times()}"))
            return grid

    def _beat(self, stopped: threading.Event) -> None:
        while not stopped.wait(_BEAT):
            self.refresh()
