"""Quote values for Hydra's grammar. Imports no torch."""

import re
from typing import Any

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
    # Hydra reads a backslash as one wherever no quote follows the row that it stands in.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"
