"""Templates that write a text from a row's columns: `{instruction}\\n{input}`. Imports no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from align.errors import InputError

ALLOWED = r"text with columns as {column}; {{ and }} for braces, \n for a new line, \\ for a backslash before an n"
_ESCAPED = re.compile(r"\\([n\\])")


@dataclass(frozen=True)
class TextTemplate:
    """Texts, and after each the column that follows it, None at the end."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> list[str]:
        """The columns that it names, each once."""
        return list(dict.fromkeys(column for _, column in self.parts if column is not None))

    def written(self, cells: Mapping[str, str]) -> str:
        """Write the text with each column's cell in its place."""
        return "".join(text + (cells[column] if column is not None else "") for text, column in self.parts)


def read_template(key: str, template: str, *, constant: bool = False) -> TextTemplate:
    """Read a template, of Python's format names alone: no code in a template reaches into a cell.

    Args:
        key: The configuration key that is named where the template is refused.
        constant: Whether it may name no column.

    Raises:
        InputError: It is no template, or asks for more than columns.
    """
    parts = []
    try:
        for text, column, spec, conversion in Formatter().parse(template):
            if column is not None:
                _check_column(key, template, column, spec, conversion)
            parts.append((_ESCAPED.sub(lambda found: "\n" if found[1] == "n" else "\\", text), column))
    except ValueError as error:
        raise InputError(key, template, f"{ALLOWED} ({error})") from error
    if not constant and all(column is None for _, column in parts):
        raise InputError(key, template, f"{ALLOWED} (it names no column: every row would have the same text)")
    return TextTemplate(tuple(parts))


def _check_column(key: str, template: str, column: str, spec: str | None, conversion: str | None) -> None:
    if not column.strip():
        raise InputError(key, template, f"{ALLOWED} (a column has no name)")
    if conversion or spec:
        raise InputError(key, template, f"{ALLOWED} ({{{column}}} without ! and :)")
    if any(sign in column for sign in ".[]"):
        raise InputError(key, template, f"{ALLOWED} ({{{column}}} is no plain name: nothing reaches into a cell)")
