"""Read paths and templates on the command line literally, whatever characters Hydra's grammar gives a meaning.

Imports no torch.
"""

import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from align.cli.quoting import is_plain, quoted, quoted_text
from align.config.data_files import is_glob, matches

WRITTEN = ("hydra.run.dir", "hydra.sweep.dir")  # folders that a run makes: they need not exist
DATA = re.compile(r"data\.path|data\.held_out_path|data\.mixture\.[^.]+\.path|evaluation\.general_text")  # maybe globs
TEXTS = re.compile(r"data\.(mixture\.[^.]+\.)?(prompt|chosen|rejected|completion|system)")  # templates
NEW = re.compile(r"data\.mixture\.[^.]+(\..+)?")  # keys that need no `+` where they are new: checked by their schema


def literal_paths(words: Sequence[str]) -> list[str]:
    """Quote the paths and templates among overrides, and expand `~`, which no shell expands behind `=`.

    A value is a path where it exists: before it is a sweep, a list or an interpolation. `a,b` is a sweep over two paths
    where both exist. A function's name behind a file (`my.py:reward`) is a part of the path. A path of data exists too
    where files match it. A template is text, but for `null`, and for what is in quotes that Hydra can read. The keys
    of a mixture's sources may be new.
    """
    return [_literal(word) for word in words]


def _literal(word: str) -> str:
    key, given, value = word.partition("=")
    if given and NEW.fullmatch(key):
        key, word = f"++{key}", f"++{word}"
    if given and TEXTS.fullmatch(key.lstrip("+")):
        return word if value == "null" or _is_quoted(word, value) else f"{key}={quoted_text(value)}"
    if not given or value[:1] in ("'", '"'):
        return word
    value = os.path.expanduser(value)
    if is_plain(value):
        return f"{key}={value}"
    data = DATA.fullmatch(key.lstrip("+")) is not None
    if _is_path(value, data) or (key in WRITTEN and "${" not in value):
        return f"{key}={quoted(value)}"
    several = value.split(",")
    if len(several) > 1 and all(_is_path(one, data) for one in several):
        return f"{key}={','.join(map(quoted, several))}"
    return f"{key}={value}"


def _is_quoted(word: str, value: str) -> bool:
    """Return whether a value begins with a quote and is one, or several, that Hydra's grammar accepts."""
    if value[:1] not in ("'", '"'):
        return False
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _is_path(value: str, data: bool) -> bool:
    file, _, name = value.rpartition(":")
    if os.path.exists(value) or (name.isidentifier() and os.path.exists(file)):
        return True
    return data and is_glob(value) and bool(matches(value))
