"""Callbacks of a run: files, console, trackers, early stopping, the user's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from align.callbacks.base import Callback, CallbackList, Guest, RunInfo, Sample
from align.config import Config
from align.errors import InputError, first_line

if TYPE_CHECKING:
    from align.callbacks.display import Display

__all__ = ["Callback", "CallbackList", "Guest", "RunInfo", "Sample", "default_callbacks"]


def default_callbacks(config: Config, display: Display | None = None) -> CallbackList:
    """Build the callbacks that `callbacks` and `tracking` configure; progress shows on `display`.

    The files come first, so that they are written before other callbacks read them, and cut back to the checkpoint
    before a resumed run's callbacks do.

    Raises:
        InputError: One of `callbacks.own` cannot be imported or made.
    """
    from align.callbacks.early_stopping import EarlyStoppingCallback
    from align.callbacks.jsonl import JsonlCallback
    from align.callbacks.progress import ProgressCallback
    from align.callbacks.retention import RetentionCallback

    chosen = config.callbacks
    callbacks: list[Callback] = [JsonlCallback(completions=chosen.jsonl.completions)]
    stopping, retention = chosen.early_stopping, chosen.retention
    if stopping.kl_above is not None or stopping.reward_drop is not None:
        callbacks.append(EarlyStoppingCallback(stopping))
    if retention.every is not None or retention.best is not None:
        callbacks.append(RetentionCallback(retention))
    callbacks += [_own(name, settings) for name, settings in chosen.own.items()]
    if chosen.progress.enabled:
        callbacks.append(ProgressCallback(display))
    if chosen.tensorboard.enabled:
        from align.callbacks.tensorboard import TensorboardCallback

        callbacks.append(Guest("tensorboard", TensorboardCallback(chosen.tensorboard)))
    if config.tracking.name == "wandb":
        from align.callbacks.wandb import WandbCallback

        callbacks.append(WandbCallback(config.tracking))
    return CallbackList(callbacks)


def _own(name: str, settings: Mapping[str, Any]) -> Guest:
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
