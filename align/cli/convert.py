"""Run the command `python -m align.convert`: print an older script's JSON configuration as a command line of align.

Standard output is the command alone; standard error lists what each key became. Imports no torch.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from align.cli.compose import composed
from align.cli.older_keys import METHODS, convert
from align.errors import InputError

_DESCRIPTION = "Print an older script's JSON configuration as a command line of align."


def main(arguments: list[str] | None = None) -> int:
    """Convert the file that the arguments (None = `sys.argv`) name; return 0, or 2 where it is refused."""
    parser = argparse.ArgumentParser(prog="python -m align.convert", description=_DESCRIPTION)
    parser.add_argument("file", type=Path, help="the JSON file")
    parser.add_argument("--method", choices=METHODS, help="where the file does not name it")
    parser.add_argument("--allow-unknown", action="store_true", help="leave out what cannot be converted, and go on")
    options = parser.parse_args(arguments)
    try:
        done = convert(_read(options.file), options.method)
        for key, value, became in done.lines:
            print(f"{key} {json.dumps(value)} -> {became}", file=sys.stderr)
        if done.unknown and not options.allow_unknown:
            raise InputError(str(options.file), ", ".join(done.unknown), "keys that convert, or --allow-unknown")
        composed(done.words)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(shlex.join(["align", *done.words]))
    return 0


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
