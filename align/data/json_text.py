"""JSON as the cells and lines of data files hold it: nothing is lost that stands there, and no depth ends a run."""

from __future__ import annotations

import json
import re
from typing import Any

_BLANK = re.compile(r"[ \t\n\r]*")


def read_json(text: str) -> Any:
    """Parse a whole text.

    Raises:
        JSONDecodeError: It is no JSON, an object has a key twice, of which one value would be lost, or it is too deep.
    """
    value, end = read_json_at(text, content_from(text, 0))
    if content_from(text, end) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def read_json_at(text: str, at: int = 0) -> tuple[Any, int]:
    """Parse the value that begins at a place; return it with the place where it ends. Raises as `read_json`."""
    try:
        return _DECODER.raw_decode(text, at)
    except _TwiceError as error:
        raise json.JSONDecodeError(f"an object has the key {error.key!r} twice", text, at) from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python's limit on the digits of a whole number
        raise json.JSONDecodeError("a number of too many digits", text, at) from error
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", text, at) from error


class _TwiceError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return made


def content_from(text: str, at: int) -> int:
    """Return the place behind JSON's white space."""
    found = _BLANK.match(text, at)
    return found.end() if found else at


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
