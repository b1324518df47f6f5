"""Run the command `align show`: print a run's data or model before anything is trained, or write it as a page.

Exit codes: 0 done; 2 the input was refused; 1 it failed; 130 interrupted. Imports no torch before the words are
accepted.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.cli.compose import composed
from align.cli.errors import ended
from align.cli.words import flags_first, raise_input_errors
from align.config import Config
from align.errors import InputError
from align.run.views import Sample, Section, Selection, View

_UNFOLDED = 10_000  # columns: nothing folds where there is no terminal to fold at
COUNTS = "bold green"  # style of the tokens in the loss
STYLES = {"": "dim", "system": "magenta", "user": "cyan", "tool": "yellow", "assistant": ""}  # of others, by role
_NUMBERS = ("rows", "row", "random", "longest", "dropped")
_SWITCHES = ("diff",)
_FLAGS = "--rows N, --row I, --random N, --longest N, --dropped [N], --diff, --html FILE"
_DROPPED = 20  # rows of each kind, where the flag has no number


def show(words: Sequence[str]) -> int:
    """Print what `words`, a subject and the words of a run, describe; return the exit code."""
    return ended(lambda: _show(words), "show")


def _show(words: Sequence[str]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = _UNFOLDED
    wanted = parse(words)
    view = _view(wanted)
    if wanted.html is None:
        print_view(view, console)
        return

    from align.run.show_page import write_page

    write_page(view, wanted.html, f"align show {shlex.join(words)}")
    console.print(Text(str(wanted.html)), soft_wrap=True)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse subject, overrides and the rows that are shown; raise InputError on what cannot be."""
    parser = argparse.ArgumentParser(prog="align show", add_help=False, allow_abbrev=False)
    parser.add_argument("subject", nargs="?")
    parser.add_argument("overrides", nargs="*")
    for flag in _NUMBERS:
        parser.add_argument(f"--{flag}", type=int)
    for flag in _SWITCHES:
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--html", type=Path)
    raise_input_errors(parser, words)
    wanted, unknown = parser.parse_known_intermixed_args(_numbered(words))
    if unknown:
        raise InputError("align show", " ".join(unknown), f"the words of one run, {_FLAGS}")
    if wanted.subject not in SUBJECTS:
        raise InputError("align show", wanted.subject or "nothing", f"{', '.join(SUBJECTS)}, then the words of a run")
    for flag in (*_NUMBERS, *_SWITCHES):
        given = getattr(wanted, flag)
        if given not in (None, False) and wanted.subject != "data":
            raise InputError(f"--{flag}", given, "of align show data only")
        if flag in _NUMBERS and given is not None and given < 1:
            raise InputError(f"--{flag}", given, "a whole number above 0")
    if wanted.html is not None and not (wanted.html.absolute().parent.is_dir() and _is_free(wanted.html)):
        raise InputError("--html", str(wanted.html), "a new file, or an HTML page, in a folder that exists")
    return wanted


def _numbered(words: Sequence[str]) -> list[str]:
    """Give `--dropped` its usual number where none follows; argparse would take the next word for one."""
    bare = [word == "--dropped" and not then.lstrip("-").isdigit() for word, then in pairwise([*words, ""])]
    return [f"{word}={_DROPPED}" if alone else word for word, alone in zip(words, bare, strict=True)]


def _is_free(path: Path) -> bool:
    """Return whether a page may be written to `path`: nothing is there, or a page."""
    return not path.exists() or (path.is_file() and path.read_bytes()[:15].lower() == b"<!doctype html>")


def _view(wanted: argparse.Namespace) -> View:
    config = composed(flags_first(wanted.overrides))
    if config.resume is not None:
        raise InputError("resume", config.resume, "null: what is shown is a run that has not begun")
    return SUBJECTS[wanted.subject](config, wanted)


def _data(config: Config, wanted: argparse.Namespace) -> View:
    from align.run.show_data import show_data  # torch and everything behind it

    chosen = {flag: getattr(wanted, flag) for flag in (*_NUMBERS, *_SWITCHES)}
    return show_data(config, Selection(**{flag: value for flag, value in chosen.items() if value is not None}))


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
        style = COUNTS if segment.counts else STYLES.get(segment.role, "")
        written.append(f"[{segment.text}]" if marked else segment.text, style=style)
    console.print(written, soft_wrap=True)
    if sample.note:
        console.print(Text(sample.note, style="italic"), soft_wrap=True)
    console.print()
