"""What a resumed run takes over from its earlier sittings, beside its configuration."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from align.config import Config
from align.errors import InputError
from align.loop.checkpoint import checkpoints
from align.models.chat_tokenizer import ChatTokenizer
from align.run.record import RunRecord


def taken_up(config: Config, folder: Path, device: torch.device, say: Callable[[str], None]) -> Path | None:
    """Find the checkpoint with which a resumed run goes on; None at the start, also after a kill before the first.

    Raises:
        InputError: The CPU threads are not those that the run had.
    """
    if config.resume is None or not folder.is_dir():
        return None
    found = checkpoints(folder, config.method.name)
    if not found:
        say("no checkpoint yet: starting over in the same folder")
        return None
    saved = RunRecord.read(folder).get("hardware", {}).get("threads")
    if device.type == "cpu" and saved not in (None, torch.get_num_threads()):
        allowed = f"{saved}, as before: another number of threads changes the rounding of every sum"
        raise InputError("threads", torch.get_num_threads(), allowed)
    say(f"resuming after step {found[-1][0]}")
    return found[-1][1]


def with_date(config: Config, chat: ChatTokenizer) -> Config:
    """Fix the day that the chat template writes, where it writes one: resumes on other days read the same prompts."""
    if chat.written_date is None or config.model.template_date is not None:
        return config
    return replace(config, model=replace(config.model, template_date=chat.written_date.isoformat()))
