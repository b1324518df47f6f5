"""`python -m align.convert OLD.json`: the JSON configuration of an older script as a command line of align.

What each key became is said on standard error; standard output is the command alone. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from align.cli.compose import composed
from align.cli.conversion import Conversion
from align.cli.convert import METHODS, convert
from align.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 where a key is unknown or the result is no configuration."""
    parser = argparse.ArgumentParser(prog="python -m align.convert", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="the JSON file")
    parser.add_argument("--method", choices=METHODS, help="where the file does not say it itself")
    parser.add_argument("--allow-unknown", action="store_true", help="leave out what cannot be converted, and go on")
    options = parser.parse_args(arguments)
    try:
        done = convert(_read(options.file), options.method)
        _tell(done)
        if done.unknown and not options.allow_unknown:
            raise InputError(str(options.file), ", ".join(done.unknown), "keys that convert, or --allow-unknown")
        composed(done.words)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(shlex.join(["align", *done.words]))
    return 0


def _tell(done: Conversion) -> None:
    for key, value, became in done.lines:
        print(f"{key} {json.dumps(value)} -> {became}", file=sys.stderr)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("file", str(path), f"a JSON file that can be read ({error})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}", error.msg, "well-formed JSON") from error
    if not isinstance(content, dict):
        raise InputError(str(path), type(content).__name__, "a JSON object")
    return content


if __name__ == "__main__":
    sys.exit(main())
