"""What a run tells the outside: files, the console, Weights & Biases."""

from __future__ import annotations

from align.callbacks.base import Callback, CallbackList, RunInfo, Sample
from align.config import TrackingConfig

__all__ = ["Callback", "CallbackList", "RunInfo", "Sample", "default_callbacks"]


def default_callbacks(tracking: TrackingConfig) -> CallbackList:
    """JSONL files, the progress display and, with `tracking=wandb`, Weights & Biases.

    The files come first, so that what the others show is on disk.
    """
    from align.callbacks.jsonl import JsonlCallback
    from align.callbacks.progress import ProgressCallback

    callbacks: list[Callback] = [JsonlCallback(), ProgressCallback()]
    if tracking.name == "wandb":
        from align.callbacks.wandb import WandbCallback

        callbacks.append(WandbCallback(tracking))
    return CallbackList(callbacks)
