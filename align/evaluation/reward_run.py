"""Report of a reward model from a configuration: load, measure, show, and write JSON and Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from align.config import Config
from align.data.preferences import load_preferences
from align.engine.engine import Engine
from align.errors import InputError
from align.evaluation.judge import load_value_head
from align.evaluation.reward_report import reward_report
from align.evaluation.reward_tables import markdown, show
from align.files import dumps, write_atomic
from align.libraries import quiet
from align.models.hardware import resolve_device, resolve_precision, torch_dtype
from align.models.load import load_chat_tokenizer
from align.rewards import RewardModelScorer
from align.worlds import get

NAME = "reward_model_report"


def report(config: Config, out: Path, by: Sequence[str] | None, model: str) -> None:
    """Measure the reward model at `model`, which reads the pairs with its own tokenizer and chat template.

    Raises:
        InputError: The model cannot be loaded, there are no held-out pairs, or no row has a column of `by`.
    """
    quiet()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = resolve_device(config)
    dtype = torch_dtype(resolve_precision(config.precision, device)[0])
    chat = load_chat_tokenizer(replace(config.model, path=model))
    pairs = load_preferences(config.data, chat).held_out
    known = {name for pair in pairs for name in pair.prompt.row}
    for column in by or ():
        if column not in known:
            raise InputError("--by", column, f"a column of the data: {', '.join(sorted(known))}")
    value_head = load_value_head(model, device, dtype, Engine.of(config), key="TARGET", pad_id=chat.pad_id)
    print(f"scoring {len(pairs)} held-out pairs", file=sys.stderr, flush=True)
    world = None if config.data.world is None else get(config.data.world)
    settings = config.evaluation
    figures = reward_report(
        RewardModelScorer(value_head),
        chat,
        pairs,
        device,
        confidence=settings.confidence,
        seed=settings.seed,
        by=by,
        perturbed=settings.num_prompts,
        world=world,
    )
    content = {"model": model, "data": config.data.held_out_path or config.data.path, **figures}
    content["settings"] = {"confidence": settings.confidence, "seed": settings.seed}
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / f"{NAME}.json", dumps(content, indent=2) + "\n")
    write_atomic(out / f"{NAME}.md", markdown(content))
    console = Console()
    show(content, console)
    console.print(Text(str(out / f"{NAME}.md")), soft_wrap=True)
