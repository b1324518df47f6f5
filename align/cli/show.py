"""Run the command `align show`: print a run's data or model before anything is trained.

Exit codes: 0 done; 2 the input was refused; 1 it failed; 130 interrupted. Imports no torch before the words are
accepted.
"""

import argparse
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.cli.compose import composed
from align.cli.errors import ended
from align.cli.words import flags_first, raise_input_errors
from align.config import Config
from align.errors import InputError
from align.run.views import Sample, Section, View

_UNFOLDED = 10_000  # columns: nothing folds where there is no terminal to fold at
COUNTS = "bold green"  # style of the tokens in the loss


def show(words: Sequence[str]) -> int:
    """Print what `words`, a subject and the words of a run, describe; return the exit code."""
    return ended(lambda: _show(words), "show")


def _show(words: Sequence[str]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = _UNFOLDED
    print_view(_view(parse(words)), console)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse subject, overrides and the rows that are shown; raise InputError on what cannot be."""
    parser = argparse.ArgumentParser(prog="align show", add_help=False, allow_abbrev=False)
    parser.add_argument("subject", nargs="?")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--row", type=int)
    raise_input_errors(parser, words)
    wanted, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        raise InputError("align show", " ".join(unknown), "the words of one run, --rows N, --row I")
    if wanted.subject not in SUBJECTS:
        raise InputError("align show", wanted.subject or "nothing", f"{', '.join(SUBJECTS)}, then the words of a run")
    for flag in ("rows", "row"):
        given = getattr(wanted, flag)
        if given is not None and wanted.subject != "data":
            raise InputError(f"--{flag}", given, "of align show data only")
        if given is not None and given < 1:
            raise InputError(f"--{flag}", given, "a whole number above 0")
    return wanted


def _view(wanted: argparse.Namespace) -> View:
    config = composed(flags_first(wanted.overrides))
    if config.resume is not None:
        raise InputError("resume", config.resume, "null: what is shown is a run that has not begun")
    return SUBJECTS[wanted.subject](config, wanted)


def _data(config: Config, wanted: argparse.Namespace) -> View:
    from align.run.show_data import show_data  # torch and everything behind it

    return show_data(config, row=wanted.row, **({} if wanted.rows is None else {"rows": wanted.rows}))


def _model(config: Config, wanted: argparse.Namespace) -> View:
    from align.run.show_model import show_model

    return show_model(config)


SUBJECTS: dict[str, Callable[[Config, argparse.Namespace], View]] = {"data": _data, "model": _model}


def print_view(view: View, console: Console) -> None:
    """Print sections and samples; tokens in the loss are coloured on a terminal, and in brackets elsewhere."""
    for section in view.sections:
        _print_section(section, console)
    for sample in view.samples:
        _print_sample(sample, console)


def _print_section(section: Section, console: Console) -> None:
    head, *lines = section.lines if section.headed else ([""] * len(section.lines[0]), *section.lines)
    table = Table(box=box.SIMPLE_HEAD if section.headed else None, pad_edge=False, show_header=section.headed)
    for label in head:
        table.add_column(Text(label), overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(Text(section.title, style="bold"))
    console.print(table)
    console.print()


def _print_sample(sample: Sample, console: Console) -> None:
    counted = any(segment.counts for segment in sample.segments)
    how = f"in {COUNTS.split()[1]}" if console.is_terminal else "in [brackets]"
    console.print(Text(f"{sample.title}{f'; {how}: in the loss' if counted else ''}", style="bold"), soft_wrap=True)
    written = Text()
    for segment in sample.segments:
        marked = segment.counts and not console.is_terminal
        written.append(f"[{segment.text}]" if marked else segment.text, style=COUNTS if segment.counts else "")
    console.print(written, soft_wrap=True)
    console.print()
