"""The two failures of a run, the user's input (exit code 2) or the run itself (1), and verdicts on one that ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

NOTE, WARNING, ERROR = "note", "warning", "error"  # levels of a verdict
STYLES = {NOTE: "yellow", WARNING: "bold red", ERROR: "bold red"}  # on the console, as rich names them


class InputError(Exception):
    """Bad configuration or data, reported as one line: which key or row, what was given, what is allowed.

    `key` is the dotted config key (`method.minibatch_size`) or the place in a file (`pairs.jsonl, row 7`), `allowed`
    a phrase that describes valid values.
    """

    def __init__(self, key: str, given: object, allowed: str) -> None:
        super().__init__(f"{key}: given {given!r}; allowed: {allowed}")
        self.key, self.given, self.allowed = key, given, allowed

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str]]:
        return type(self), (self.key, self.given, self.allowed)  # launchers pickle what a job raised


class RunError(Exception):
    """A run that cannot go on (non-finite losses, a reward that raised); names the sample where there is one."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, the name of its class where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Verdict:
    """One thing that went wrong in a run: as `verdicts` of run.json and of a callback's `on_end` hold it."""

    level: str  # WARNING; ERROR for what makes the run's figures meaningless; NOTE for what they cannot show
    what: str  # for a person, the figure in it
    figure: float | None
    key: str  # of the configuration, to turn

    @property
    def text(self) -> str:
        """What went wrong, and the key to turn."""
        return f"{self.what} (turn {self.key})"

    @property
    def line(self) -> str:
        """The verdict as a line of the console."""
        return f"{self.level}: {self.text}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
