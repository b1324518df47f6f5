"""Callbacks of a run: files, console, trackers, early stopping, the user's own."""

from __future__ import annotations

from align.callbacks.base import Callback, CallbackList, Guest, RunInfo, Sample
from align.callbacks.own import own_callback
from align.config import Config

__all__ = ["Callback", "CallbackList", "Guest", "RunInfo", "Sample", "default_callbacks"]


def default_callbacks(config: Config) -> CallbackList:
    """Build the callbacks that `callbacks` and `tracking` configure.

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
    callbacks += [own_callback(name, settings) for name, settings in chosen.own.items()]
    if chosen.progress.enabled:
        callbacks.append(ProgressCallback())
    if chosen.tensorboard.enabled:
        from align.callbacks.tensorboard import TensorboardCallback

        callbacks.append(Guest("tensorboard", TensorboardCallback(chosen.tensorboard)))
    if config.tracking.name == "wandb":
        from align.callbacks.wandb import WandbCallback

        callbacks.append(WandbCallback(config.tracking))
    return CallbackList(callbacks)
