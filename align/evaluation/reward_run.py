"""Report of a reward model from a configuration: load, measure, show, and write JSON and Markdown."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.activity import Activity
from align.callbacks.display import Display
from align.config import Config
from align.config.automatic import settle
from align.data.preferences import load_preferences
from align.engine.engine import Engine
from align.errors import InputError
from align.evaluation.judge import load_value_head
from align.evaluation.reward_report import reward_report
from align.files import dumps, write_atomic
from align.libraries import quiet
from align.models.hardware import resolve_device, resolve_precision, torch_dtype
from align.models.load import load_chat_tokenizer, model_facts
from align.numbers import markdown_table, number
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
    own = replace(config.model, path=model)
    config = settle(config, model_facts(own)).config
    with Display(enabled=config.callbacks.progress.enabled) as display:
        figures = _measured(config, by, model, device, dtype, display.activity)
    settings = config.evaluation
    content = {"model": model, "data": config.data.held_out_path or config.data.named(), **figures}
    content["settings"] = {"confidence": settings.confidence, "seed": settings.seed}
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / f"{NAME}.json", dumps(content, indent=2) + "\n")
    write_atomic(out / f"{NAME}.md", markdown(content))
    console = Console()
    show(content, console)
    console.print(Text(str(out / f"{NAME}.md")), soft_wrap=True)


def _measured(
    config: Config,
    by: Sequence[str] | None,
    model: str,
    device: torch.device,
    dtype: torch.dtype,
    activity: Activity,
) -> dict[str, Any]:
    """Load model and pairs, and compute the report's figures."""
    chat = load_chat_tokenizer(replace(config.model, path=model))
    data = load_preferences(config.data, chat, activity)
    pairs = data.held_out
    if not pairs:
        raise InputError("data.path", config.data.path, f"data with held-out preference pairs (here {data.rows})")
    known = {name for pair in pairs for name in pair.prompt.row}
    for column in by or ():
        if column not in known:
            raise InputError("--by", column, f"a column of the data: {', '.join(sorted(known))}")
    activity.advance("loading the model")
    value_head = load_value_head(model, device, dtype, Engine.of(config), key="TARGET", pad_id=chat.pad_id)
    print(f"scoring {len(pairs)} held-out pairs", file=sys.stderr, flush=True)
    settings = config.evaluation
    return reward_report(
        RewardModelScorer(value_head, activity=activity),
        chat,
        pairs,
        device,
        confidence=settings.confidence,
        seed=settings.seed,
        by=by,
        perturbed=settings.num_prompts,
        world=None if config.data.world is None else get(config.data.world),
    )


@dataclass(frozen=True)
class Sheet:
    """A titled table of texts; the first column is left-aligned, all others right-aligned."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def sheets(report: Mapping[str, Any]) -> Iterator[Sheet]:
    """Yield the report's tables in reading order; tables without rows are left out."""
    accuracy, length, calibrated = report["accuracy"], report["length_only"], report["calibration"]
    overall = [
        ("held-out accuracy", f"{number(accuracy['mean'])} [{number(accuracy['low'])}, {number(accuracy['high'])}]"),
        ("pairs", str(accuracy["pairs"])),
        ("the longer response wins", number(length["longer_wins"])),
        ("the shorter response wins", number(length["shorter_wins"])),
        ("correlation of margin and length difference", number(length["correlation"], signed=True)),
        ("expected calibration error", number(calibrated["ece"])),
        ("Brier score (a coin: 0.25)", number(calibrated["brier"])),
        ("log loss, nats (a coin: 0.693)", number(calibrated["log_loss"])),
    ]
    yield Sheet("Held-out pairs", ("figure", "value"), overall)
    for column, groups in report["by"].items():
        if groups:
            head = (column, "pairs", "accuracy", "interval", "longer wins")
            yield Sheet(f"Accuracy by {column}", head, [_group(name, figures) for name, figures in groups.items()])
    rows = [
        (f"{b['low']:.2f} to {b['high']:.2f}", str(b["pairs"]), number(b["confidence"]), number(b["accuracy"]))
        for b in calibrated["bins"]
    ]
    yield Sheet("Reliability of sigmoid(score difference)", ("confidence", "pairs", "mean", "accuracy"), rows)
    yield Sheet("What moves the score", MOVES, [_move(kind, figures) for kind, figures in report["moves"].items()])


MOVES = ("chosen response with", "responses", "shift", "± SE", "in deviations", "rises", "gold shift", "tokens")


def _group(value: str, figures: Mapping[str, float]) -> tuple[str, ...]:
    between = f"{number(figures['low'])} to {number(figures['high'])}"
    return (value, str(figures["pairs"]), number(figures["mean"]), between, number(figures["longer_wins"]))


def _move(kind: str, figures: Mapping[str, float]) -> tuple[str, ...]:
    return (
        kind,
        str(figures["responses"]),
        number(figures["shift"], signed=True),
        number(figures.get("shift_se")),
        number(figures["shift_in_deviations"], signed=True),
        number(figures["rises"]),
        number(figures.get("gold_shift"), signed=True),
        number(figures["length_shift"], signed=True),
    )


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print every table on the console."""
    for sheet in sheets(report):
        table = Table(title=Text(sheet.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i, label in enumerate(sheet.head):
            table.add_column(label, justify="right" if i else "left")
        for row in sheet.rows:
            table.add_row(*map(Text, row))
        console.print(table)


def markdown(report: Mapping[str, Any]) -> str:
    """Format the report as Markdown."""
    lines = [f"# Reward model {report['model']}", "", f"Pairs held out of {report['data']}.", ""]
    for sheet in sheets(report):
        lines += [f"## {sheet.title}", ""]
        head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in (sheet.head, *sheet.rows))
        lines += [*markdown_table(head, rows), ""]
    return "\n".join(lines)
