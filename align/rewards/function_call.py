"""Calls of a user's function: its arguments by the names of its parameters, and results that are awaited."""

from __future__ import annotations

import asyncio
import json
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from inspect import Parameter, isawaitable
from itertools import takewhile
from typing import Any

from align.errors import InputError
from align.types import Prompt, RewardInput, TrainerState
from align.user_files import parameters_of

COMPLETIONS, COMPLETION_IDS = "completions", "completion_ids"  # parameters by which TRL's reward functions are known
OURS = ("prompts", "responses", "offsets", "rows")
TRLS = ("prompts", COMPLETIONS, COMPLETION_IDS)
BESIDE = ("trainer_state", "log_extra", "log_metric")  # as TRL's trainers give them; one of each, not one a response
NO_COLUMNS = ("prompt", "completion", COMPLETION_IDS)  # TRL hands these on under its own names alone
_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class Log:
    """What a function notes through `log_extra` and `log_metric` while it scores a batch."""

    def __init__(self, responses: int) -> None:
        self._responses = responses
        self.extra: dict[str, list[Any]] = {}  # columns beside the responses
        self.metrics: dict[str, list[float]] = {}

    def log_extra(self, column: str, values: Iterable[Any]) -> None:
        """Note a value for each response.

        Raises:
            ValueError: There are more or fewer.
        """
        found = list(values)
        if len(found) != self._responses:
            raise ValueError(f"log_extra({column!r}): {len(found)} values for {self._responses} responses")
        self.extra[str(column)] = [_jsonable(value) for value in found]

    def log_metric(self, name: str, value: float) -> None:
        """Note a number of the batch; those under one name are averaged."""
        self.metrics.setdefault(str(name), []).append(float(value))


class Signature:
    """Arguments of a user's function, in the dialect that its parameters name: ours, or TRL's with completions."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._parameters = parameters_of(function)
        self.trl = COMPLETIONS in self._parameters or COMPLETION_IDS in self._parameters
        self._given = (*(TRLS if self.trl else OURS), *BESIDE)
        self._everything = any(p.kind is Parameter.VAR_KEYWORD for p in self._parameters.values())

    def check_columns(self, prompts: Sequence[Prompt], path: str, key: str) -> None:
        """Raise InputError where a parameter without default is neither an argument nor a column of the data."""
        columns = self._columns([prompt.row for prompt in prompts])
        for p in self._parameters.values():
            if p.default is p.empty and p.kind not in _REST and p.name not in (*self._given, *columns):
                what = f"parameters among {', '.join(self._given)}, or columns of the data: {', '.join(columns)}"
                raise InputError(key, f"{path} with a parameter {p.name}", what)

    def arguments(self, batch: RewardInput, rows: Sequence[int], log: Log, state: TrainerState) -> _Arguments:
        """Return what the function is called with for these rows of the batch."""
        lengths = batch.rollout.lengths.tolist()
        own: dict[str, Callable[[int], Any]] = {
            "prompts": lambda i: _prompt(batch, i) if self.trl else batch.prompts[i]
        }
        if self.trl:
            own[COMPLETIONS] = lambda i: _completion(batch, i)
            own[COMPLETION_IDS] = lambda i: batch.rollout.response_ids[i, : lengths[i]].tolist()
        else:
            own["responses"] = lambda i: batch.responses[i]
            own["offsets"] = lambda i: [(a, b) for a, b in batch.offsets[i, : lengths[i]].tolist()]
            own["rows"] = lambda i: dict(batch.rows[i])
        beside = {"trainer_state": state, "log_extra": log.log_extra, "log_metric": log.log_metric}
        given: dict[str, Any] = {}
        for name in self._columns(batch.rows):
            if self._takes(name):
                given[name] = [batch.rows[i].get(name) for i in rows]
        given |= {name: [entry(i) for i in rows] for name, entry in own.items() if self._takes(name)}
        return self._bound(given | {name: value for name, value in beside.items() if self._takes(name)})

    def _takes(self, name: str) -> bool:
        return name in self._parameters or self._everything

    def _columns(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        names = dict.fromkeys(str(name) for row in rows for name in row)
        return [name for name in names if name not in self._given and not (self.trl and name in NO_COLUMNS)]

    def _bound(self, given: dict[str, Any]) -> _Arguments:
        """Split arguments by how they are passed: parameters before a `/` have no names in a call."""
        first = (p.name for p in self._parameters.values() if p.kind is Parameter.POSITIONAL_ONLY)
        return _Arguments([given.pop(name) for name in takewhile(given.__contains__, first)], given)


class _Arguments:
    def __init__(self, positional: list[Any], named: dict[str, Any]) -> None:
        self.positional, self.named = positional, named


class Caller:
    """Caller of functions, plain or async; whatever they return to be awaited runs on one event loop, in a thread.

    The loop lives as long as the caller, so that clients and locks of one call serve the next. A thread of its own
    has room for it also where the caller's thread runs a loop, as notebooks do.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waits(self) -> bool:
        """Return whether a function's result had to be awaited."""
        return self._loop is not None

    def __call__(self, function: Callable[..., Any], given: _Arguments) -> Any:
        found = function(*given.positional, **given.named)
        return self._awaited(found) if isawaitable(found) else found

    def _awaited(self, found: Awaitable[Any]) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="align-reward", daemon=True).start()
            weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        future = asyncio.run_coroutine_threadsafe(_result(found), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # of an interrupted call


def _jsonable(value: Any) -> Any:
    """Return a value as JSON holds it, else its text."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)


async def _result(found: Awaitable[Any]) -> Any:
    return await found


def _prompt(batch: RewardInput, i: int) -> str | list[dict[str, Any]]:
    """Return a prompt as TRL's data has it: a string, or messages."""
    return [dict(m) for m in batch.messages[i]] if batch.conversations[i] else batch.prompts[i]


def _completion(batch: RewardInput, i: int) -> str | list[dict[str, Any]]:
    text = batch.responses[i]
    return [{"role": "assistant", "content": text}] if batch.conversations[i] else text
