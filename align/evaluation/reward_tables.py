"""Tables of a reward model's report, on the console and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.numbers import number


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
        for row in (sheet.head, ["---", *["---:"] * (len(sheet.head) - 1)], *sheet.rows):
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
        lines.append("")
    return "\n".join(lines)
