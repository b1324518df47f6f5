"""What becomes of an older script's configuration, key by key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[\w./:@+-]+")  # what Hydra's grammar takes without quotes


class Conversion:
    """What became of `old`: `words` compose the run, `lines` tell of every key (key, value, what it became)."""

    def __init__(self, old: Mapping[str, Any], method: str) -> None:
        self.old, self.method = old, method
        self.groups = {"method": method}
        self.keys: dict[str, str] = {}
        self.lines: list[tuple[str, Any, str]] = []
        self.unknown: list[str] = []

    @property
    def words(self) -> list[str]:
        """Groups first: a key's section is there once its group is chosen."""
        return [f"{key}={value}" for key, value in (self.groups | self.keys).items()]

    def say(self, key: str, became: str) -> None:
        self.lines.append((key, self.old[key], became))

    def set(self, key: str, new: str, value: Any, note: str = "") -> None:
        """`key` of the old file is `new` here."""
        self.keys[new] = quoted(value)
        self.say(key, f"{new}={self.keys[new]}" + (f" ({note})" if note else ""))

    def choose(self, key: str, group: str, option: str, note: str = "") -> None:
        """`key` of the old file chooses an option of a group here."""
        self.groups[group] = option
        self.say(key, f"{group}={option}" + (f" ({note})" if note else ""))

    def refuse(self, key: str, why: str) -> None:
        self.unknown.append(key)
        self.say(key, why)


def quoted(value: Any) -> str:
    """A value as Hydra's grammar takes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (int, float)) or (isinstance(value, str) and _PLAIN.fullmatch(value)):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"no text, number, true, false or null: {value!r}")
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
