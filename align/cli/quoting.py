"""Quote values for Hydra's grammar. Imports no torch."""

import re
from typing import Any

from align.config.io import literal

_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)  # text that Hydra's grammar accepts without quotes


def is_plain(text: str) -> bool:
    """Return whether Hydra's grammar reads a text as it is."""
    return _PLAIN.fullmatch(text) is not None


def quoted(value: Any) -> str:
    """Quote a value for Hydra's grammar."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (int, float)) or (isinstance(value, str) and is_plain(value)):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"no text, number, true, false or null: {value!r}")
    return _in_quotes(value)


def quoted_text(text: str) -> str:
    """Quote a text for Hydra's grammar that is to stay text: no number, no null, and nothing in it an interpolation."""
    return _in_quotes(literal(text))


def _in_quotes(text: str) -> str:
    # Hydra reads a backslash as one wherever no quote follows the row that it stands in.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"
