"""Validate single values; raise InputError that names the key, what was given and what is allowed. Imports no torch.

Most functions take a section, its dotted name in the configuration, and names of its fields; a field that is None is
accepted.
"""

import math
from collections.abc import Callable, Collection
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from align.config.values import AUTO
from align.errors import InputError
from align.files import read_object

WORLD_ASSET = "align://"


def _each(good: Callable[[Any], bool], allowed: str, section: object, prefix: str, *names: str) -> None:
    """Raise InputError unless every named field is a finite number for which `good` holds."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not (math.isfinite(value) and good(value)):
            raise InputError(f"{prefix}.{name}" if prefix else name, value, allowed)


positive = partial(_each, lambda value: value > 0, "a number above 0")
not_negative = partial(_each, lambda value: value >= 0, "0 or a number above 0")
fraction = partial(_each, lambda value: 0 <= value <= 1, "a number from 0 to 1")
open_fraction = partial(_each, lambda value: 0 < value < 1, "a number between 0 and 1, both excluded")


def automatic(section: object, prefix: str, *names: str) -> None:
    """Raise InputError unless every named field is `auto` or a finite number above 0; of tokens a whole one."""
    for name in names:
        value, whole = getattr(section, name), name.endswith("_tokens")
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if value != AUTO and not (number and math.isfinite(value) and value > 0):
            raise InputError(f"{prefix}.{name}", value, f"auto, or a {'whole ' if whole else ''}number above 0")


def divisor(section: object, prefix: str, name: str, whole: str, rows: int) -> None:
    """Raise InputError unless the named field divides `rows`, the value of the key `whole`."""
    value = getattr(section, name)
    if value is not None and rows % value:
        raise InputError(f"{prefix}.{name}", value, f"a divisor of {whole}={rows}")


def finite(key: str, value: float) -> None:
    """Raise InputError where `value` is infinite or not a number."""
    if not math.isfinite(value):
        raise InputError(key, value, "a finite number")


def one_of(section: object, prefix: str, name: str, allowed: Collection[str]) -> None:
    """Raise InputError unless the named field is one of `allowed`."""
    value = getattr(section, name)
    if value not in allowed:
        raise InputError(f"{prefix}.{name}", value, ", ".join(allowed))


def existing(key: str, path: str | None, *, kind: str = "a file or folder that exists") -> Path | None:
    """Return the real path behind `path`, or None where `path` is no local one (None itself, a Hub id).

    A path is local when it begins with `/` or `.`, is an `align://` address, or exists. An empty one, and a local one
    where nothing exists, raise InputError.
    """
    if path is None:
        return None
    if not path.strip():
        raise InputError(key, path, kind)
    if path.startswith(WORLD_ASSET):
        from align.worlds import resolve

        return Path(resolve(path, key))
    real = Path(path)
    if real.exists():
        return real
    if path[0] in "/.":
        raise InputError(key, path, kind)
    return None


def existing_file(key: str, path: str | None) -> None:
    """Raise InputError unless `path` is None or a file."""
    kind = "a file that exists"
    real = existing(key, path, kind=kind)
    if path is not None and (real is None or not real.is_file()):
        raise InputError(key, path, kind)


def day(key: str, text: str | None) -> None:
    """Raise InputError unless `text` is None or a day of the calendar, as ISO 8601 writes it."""
    try:
        date.fromisoformat(text or "2000-01-01")
    except ValueError as error:
        raise InputError(key, text, f"null or a day such as {date.today()} ({error})") from error


def model_folder(key: str, path: str | None) -> None:
    """Raise InputError where `path` is local and holds neither a model, nor an adapter, nor a run."""
    kind = "a Hub id, or a folder with config.json (a model), adapter_config.json (an adapter) or model/ (a run)"
    real = existing(key, path, kind=kind)
    if real is not None and not any((real / name).exists() for name in ("config.json", "adapter_config.json", "model")):
        raise InputError(key, path, kind)


def reward_model(key: str, path: str | None) -> None:
    """Raise InputError as `model_folder`, and where the config.json of a local model names no sequence classifier."""
    model_folder(key, path)
    real = existing(key, path)
    if real is None or not (real / "config.json").is_file() or (real / "head.safetensors").is_file():
        return
    stated = read_object(real / "config.json", "as transformers writes it")
    kinds = stated.get("architectures") or []
    if kinds and not any("SequenceClassification" in kind for kind in kinds):
        raise InputError(key, f"{path} ({', '.join(kinds)})", "a sequence classifier with one output")
    outputs = len(stated.get("id2label") or {}) or stated.get("num_labels", 1)
    if outputs != 1:
        raise InputError(key, f"{path} (num_labels={outputs})", "a sequence classifier with num_labels=1")


def installed(key: str, given: str, package: str, empty: str = "none") -> None:
    """Raise InputError where an optional package is not installed."""
    if find_spec(package) is None:
        raise InputError(key, given, f"{empty}, until `pip install {package}` was run")
