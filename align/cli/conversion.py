"""Collect the words of align's command line that a configuration written for other programs becomes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from align.cli.groups import CONF, options
from align.cli.quoting import quoted
from align.config.data_files import format_of
from align.errors import InputError

_OPTIONS = {"json": "jsonl", "csv": "csv", "parquet": "parquet", "arrow": "parquet"}  # by the format of a file
_BITS = {"load_in_8bit": "int8", "load_in_4bit": "nf4"}


class Conversion:
    """The conversion of `old`: `words` compose the run, `lines` lists (key, given, what it became) of every key.

    `unset` are values of keys that the file leaves to the defaults of the program it was written for, `rows` the number
    of training rows where it is known.
    """

    def __init__(self, old: Mapping[str, Any], method: str, unset: Mapping[str, Any], rows: int | None) -> None:
        self.given, self.method, self.rows = old, method, rows
        self.old = {**old, **unset}
        self.groups = {"method": method}
        self.keys: dict[str, str] = {}
        self.lines: list[tuple[str, str, str]] = []
        self.unknown: list[str] = []

    @property
    def words(self) -> list[str]:
        """Words of the command line, groups before keys: a group's option defines which keys exist."""
        return [f"{key}={value}" for key, value in (self.groups | self.keys).items()]

    def report(self, key: str, became: str) -> None:
        """Record what became of `key` of the old file."""
        given = json.dumps(self.given[key], default=str) if key in self.given else "unset"
        self.lines.append((key, given, became))

    def set(self, key: str, new: str, value: Any, note: str = "") -> None:
        """Convert `key` of the old file to the key `new`."""
        self.keys[new] = quoted(value)
        self.report(key, f"{new}={self.keys[new]}" + (f" ({note})" if note else ""))

    def choose(self, key: str, group: str, option: str, note: str = "") -> None:
        """Convert `key` of the old file to an option of a group."""
        self.groups[group] = option
        self.report(key, f"{group}={option}" + (f" ({note})" if note else ""))

    def refuse(self, key: str, why: str) -> None:
        """Record that `key` of the old file cannot be converted."""
        self.unknown.append(key)
        self.report(key, why)

    def leave_out(self, key: str, why: str) -> None:
        """Record that `key` of the old file needs no word here."""
        self.report(key, f"left out: {why}")


def whole(out: Conversion, name: str) -> int | None:
    """Read the whole number above 0 that the old file has under `name`; None where it has none."""
    value = out.old.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(name, value, "a whole number above 0")
    return value


def to_model(out: Conversion, key: str, value: str) -> None:
    """Convert the start model's folder or Hub id."""
    known = named("model", value)
    if known is not None:
        return out.choose(key, "model", known)
    out.choose(key, "model", "local", "model.path=" + value)
    out.keys["model.path"] = quoted(value)


def to_data(out: Conversion, key: str, value: str, note: str = "") -> str:
    """Convert the path or Hub id of a data set; return the option of `data` that it became."""
    option, remark = named("data", value), note
    if option is None:
        option = _OPTIONS.get(format_of(value) or "", "jsonl" if Path(value).is_dir() else "hub")
        out.keys["data.path"] = quoted(value)
        remark = "; ".join(filter(None, ("data.path=" + value, note)))
    out.choose(key, "data", option, remark)
    return option


def named(group: str, path: str) -> str | None:
    """Find the option of `group` for a Hub id, whatever the id's case; None where there is none."""
    for name in options(group):
        found = OmegaConf.select(OmegaConf.load(CONF / group / f"{name}.yaml"), "path", throw_on_missing=False)
        if str(found).lower() == path.lower():
            return name
    return None


def to_quantization(out: Conversion, key: str, value: bool) -> None:
    """Convert the flag for a base of 8 or 4 bits."""
    if not value:
        return out.leave_out(key, "false")
    out.choose(key, "quantization", _BITS[key])


def check_bits(old: Mapping[str, Any]) -> None:
    """Raise InputError where `old` asks for 8 and 4 bits at once."""
    if old.get("load_in_8bit") and old.get("load_in_4bit"):
        raise InputError("load_in_4bit", True, "one of load_in_8bit and load_in_4bit")


def check_flags(old: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise InputError where one of `names` is no true or false: a text such as "false" would count as true."""
    for key in names:
        if old.get(key) not in (True, False, None):
            raise InputError(key, old[key], "true or false")
