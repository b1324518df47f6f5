"""The user's own callbacks, by the name of their class."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from align.callbacks.base import Callback, Guest
from align.errors import InputError, first_line


def own_callback(name: str, settings: Mapping[str, Any]) -> Guest:
    """Build the callback of `callbacks.own.<name>`: `_target_` names its class, all other keys are its arguments.

    Raises:
        InputError: The class does not exist, is no `Callback`, or does not take these arguments.
    """
    key, target = f"callbacks.own.{name}", str(settings["_target_"])
    arguments = {word: value for word, value in settings.items() if word != "_target_"}
    found = _import(f"{key}._target_", target)
    if not (isinstance(found, type) and issubclass(found, Callback)):
        raise InputError(f"{key}._target_", target, "a class that extends align.callbacks.Callback")
    try:
        return Guest(key, found(**arguments))
    except Exception as error:
        raise InputError(key, arguments, f"arguments that {target} takes ({first_line(error)})") from error


def _import(key: str, target: str) -> Any:
    module, _, attribute = target.rpartition(".")
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:  # `python -m` imports from the working directory, a console script does not
        sys.path.append(here)
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:
        allowed = f"module.Class, of a class that can be imported ({first_line(error)})"
        raise InputError(key, target, allowed) from error
    finally:
        if added:
            sys.path.remove(here)
