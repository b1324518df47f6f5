"""The two failures of a run, the user's input (exit code 2) or the run itself (1), and verdicts on one that ended."""

from __future__ import annotations

from collections.abc import Iterator
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


def chain(error: BaseException | None, *, hidden: bool = False) -> Iterator[BaseException]:
    """Yield an error and its causes, the first cause last; what it was raised from, else what was being handled.

    Args:
        hidden: Go on behind an error that was raised `from None`, as Hydra and `datasets` raise theirs.
    """
    while error is not None:
        yield error
        error = error.__cause__ or (error.__context__ if hidden or not error.__suppress_context__ else None)


def with_cause(error: BaseException) -> str:
    """Describe an error on one line, with its first cause where the chain has one that the error does not quote."""
    links = list(chain(error))
    said, cause = _typed(links[0]), _typed(links[-1])
    return said if len(links) == 1 or first_line(links[-1]) in said else f"{said} (first cause: {cause})"


def _typed(error: BaseException) -> str:
    """Return an error's message on one line behind its type, which an InputError does without."""
    message = " ".join(str(error).split())
    if isinstance(error, InputError):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


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
