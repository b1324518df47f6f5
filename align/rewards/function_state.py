"""What a user's callable remembers from call to call: kept apart from evaluations, and stored in checkpoints.

Only a training's rollouts are scored by the object itself. Everything else, an evaluation, a scale, a probe, is scored
by the object as it was before the training, whatever was scored in between: its figures can be compared over time.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from torch import nn

from align.errors import InputError, RunError
from align.user_files import brief

METHODS = (("state_dict", "load_state_dict"), ("state", "load_state"))  # pairs by which an object states what changes
Function = Callable[..., Any]


def memory_of(function: Function, path: str, key: str, say: Callable[[str], None]) -> Memory:
    """Return what a callable remembers, as far as Python can tell.

    Plain functions, partial ones too, and torch modules count as remembering nothing.

    Raises:
        InputError: Its state is nothing that JSON holds.
    """
    owner = _owner(function)
    if owner is None or isinstance(owner, nn.Module):
        return Memory(function)
    for save, load in METHODS:
        if callable(getattr(owner, save, None)) and callable(getattr(owner, load, None)):
            return Stated(function, path, key, say, getattr(owner, save), getattr(owner, load))
    return Unstated(function, path, say)


def _owner(function: Function) -> object | None:
    """Return the object whose attributes a call may change; None for a function."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.ismethod(function):
        return None if isinstance(function.__self__, type) else function.__self__
    return None if inspect.isroutine(function) else function


class Memory:
    """Memory of a function that remembers nothing."""

    empty = True  # so that it may be called again, to find the response on which it raises

    def __init__(self, function: Function) -> None:
        self.function = function

    @contextmanager
    def trained(self) -> Iterator[Function]:
        """Lend the callable for a rollout that is learned from."""
        yield self.function

    @contextmanager
    def apart(self) -> Iterator[Function]:
        """Lend the callable for anything else: what it remembers stays as it is."""
        yield self.function

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""


class Unstated(Memory):
    """Memory of an object that does not state it: evaluations use copies, a resumed run begins with the object anew."""

    empty = False

    def __init__(self, function: Function, path: str, say: Callable[[str], None]) -> None:
        super().__init__(function)
        self._path, self._say = path, say
        self._first = self._copied(function)

    def _copied(self, function: Function) -> Function | None:
        """Copy a callable, without the torch modules that it keeps: their weights do not change while they score."""
        kept = getattr(_owner(function), "__dict__", {}).values()
        try:
            return deepcopy(function, {id(value): value for value in kept if isinstance(value, nn.Module)})
        except Exception as error:
            why = f"{self._path} cannot be copied ({type(error).__name__})"
            self._say(f"{why}: evaluations call the object that training calls, and it remembers them too")
            return None

    @contextmanager
    def apart(self) -> Iterator[Function]:
        copied = None if self._first is None else self._copied(self._first)
        yield self.function if copied is None else copied

    def load_state(self, saved: Mapping[str, Any]) -> None:
        names = " or ".join("/".join(pair) for pair in METHODS)
        self._say(f"the state of {self._path} starts anew: it has no {names}, by which a checkpoint could keep it")


class Stated(Memory):
    """Memory of an object that gives and takes its state, as JSON."""

    empty = False

    def __init__(
        self,
        function: Function,
        path: str,
        key: str,
        say: Callable[[str], None],
        save: Callable[[], Any],
        load: Callable[[Any], None],
    ) -> None:
        super().__init__(function)
        self._path, self._say, self._save, self._load = path, say, save, load
        try:
            self._first = self._saved()
        except RunError as error:
            raise InputError(key, path, f"an object whose state JSON holds ({error})") from error

    @contextmanager
    def trained(self) -> Iterator[Function]:
        """As of any memory; a failure leaves the state as it was before, for the checkpoint that ends the run."""
        before = self._saved()
        try:
            yield self.function
        except Exception:
            self._load(before)
            raise

    @contextmanager
    def apart(self) -> Iterator[Function]:
        now = self._saved()
        self._load(_copy(self._first))
        try:
            yield self.function
        finally:
            self._load(now)

    def state(self) -> dict[str, Any]:
        return {"state": self._saved()}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        if "state" not in saved:
            self._say(f"the state of {self._path} starts anew: the checkpoint has none")
            return
        try:
            self._load(saved["state"])
        except Exception as error:
            raise RunError(f"{self._path}: its {self._load.__name__} raised {brief(error)}") from error

    def _saved(self) -> Any:
        """Return the state as it is now.

        Raises:
            RunError: JSON would not give it back.
        """
        method = self._save.__name__
        try:
            state = self._save()
            copied = _copy(state)
        except Exception as error:
            raise RunError(f"{self._path}: {method}() gave no JSON: {brief(error)}") from error
        if not _unchanged(state):
            raise RunError(f"{self._path}: {method}() gave what JSON changes; lists and keys that are text stay")
        return copied


def _copy(state: Any) -> Any:
    return json.loads(json.dumps(state))


def _unchanged(state: Any) -> bool:
    """Return whether JSON gives a value back as it is: no tuples, no numbers as keys."""
    if isinstance(state, dict):
        return all(isinstance(key, str) and _unchanged(value) for key, value in state.items())
    if isinstance(state, list):
        return all(map(_unchanged, state))
    return state is None or isinstance(state, (bool, int, float, str))
