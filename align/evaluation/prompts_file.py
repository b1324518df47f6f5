"""prompts.txt: the probes' prompts and their perturbations, in a form that is written by hand.

    # A comment, or nothing.
    What is the capital of France?
      length: What is the capital of France? Write as much as you can.
      typos: Waht is the captial of France?
    Name the opposite of hot.

A prompt is a line that begins in the first column; its perturbations follow, indented, each under a kind of any name.
A prompt without perturbations gets those of `align.evaluation.perturbations`. `\\n` stands for a line break, `\\#`
for a `#` that begins a prompt, `\\\\` for a backslash. Standard library only.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from align.errors import InputError
from align.evaluation.perturbations import perturbations_of
from align.worlds import resolve

KEY = "evaluation.prompts_file"
_PERTURBATION = re.compile(r"([a-z][a-z0-9_]*):\s*(.*)")
_ESCAPES = {"n": "\n", "#": "#", "\\": "\\"}


@dataclass(frozen=True)
class ProbePrompt:
    """A prompt and its perturbations by kind."""

    text: str
    perturbations: Mapping[str, str]


def made_perturbations(prompts: Iterable[str], seed: int = 0) -> list[ProbePrompt]:
    """Make the package's perturbations of prompts."""
    return [ProbePrompt(text, perturbations_of(text, seed)) for text in prompts]


def format_prompts(prompts: Iterable[ProbePrompt]) -> str:
    """Format prompts as the content of a prompts file, which `parse_prompts` reads back."""
    lines = []
    for prompt in prompts:
        lines.append(_escaped(prompt.text))
        lines += [f"  {kind}: {_escaped(text)}" for kind, text in prompt.perturbations.items()]
    return "".join(f"{line}\n" for line in lines)


def load_prompts(path: str, seed: int = 0) -> list[ProbePrompt]:
    """Load the prompts of a file.

    Prompts without perturbations get the package's own, made with `seed`. `path` may be an `align://` address.

    Raises:
        InputError: A missing file, a file that is not UTF-8, or as `parse_prompts`.
    """
    place = Path(resolve(path, KEY)).expanduser()
    if not place.is_file():
        raise InputError(KEY, path, "a text file of prompts, one a line")
    try:
        text = place.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(KEY, path, f"UTF-8 text (byte {error.start} is not)") from error
    return parse_prompts(text, path, seed)


def parse_prompts(content: str, name: str, seed: int = 0) -> list[ProbePrompt]:
    """Parse the content of a prompts file; prompts without perturbations get the package's own.

    Raises:
        InputError: A line that is neither prompt nor perturbation, named by file and line number, or no prompt.
    """
    found: dict[str, dict[str, str]] = {}
    latest: str | None = None
    for number, line in enumerate(content.removeprefix("\ufeff").split("\n"), start=1):
        where = f"{name}, line {number}"
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            _add_perturbation(found, latest, line.strip(), where)
            continue
        latest = _unescaped(line.strip(), where)
        if latest in found:
            raise InputError(where, line.strip(), "a prompt that does not stand above already")
        found[latest] = {}
    if not found:
        raise InputError(KEY, name, "a file with at least one prompt")
    return [ProbePrompt(text, perturbations or perturbations_of(text, seed)) for text, perturbations in found.items()]


def _add_perturbation(found: dict[str, dict[str, str]], prompt: str | None, line: str, where: str) -> None:
    if prompt is None:
        raise InputError(where, line, "a prompt first: a line that begins in the first column")
    match = _PERTURBATION.fullmatch(line)
    if match is None:
        raise InputError(
            where, line, "a perturbation as `kind: text` (kind in lower case), or a prompt in the first column"
        )
    kind, text = match[1], _unescaped(match[2], where)
    if kind in found[prompt]:
        raise InputError(where, kind, "each kind once below a prompt")
    if not text or text == prompt:
        raise InputError(where, line, "a perturbation that differs from its prompt")
    found[prompt][kind] = text


def _escaped(text: str) -> str:
    plain = text.strip().replace("\\", "\\\\").replace("\n", "\\n")
    return f"\\{plain}" if plain.startswith("#") else plain


def _unescaped(line: str, where: str) -> str:
    def meant(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise InputError(where, match[0], "\\n for a line break, \\# for a # or \\\\ for a backslash")
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.?)", meant, line)
