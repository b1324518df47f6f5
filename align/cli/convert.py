"""Run the command `python -m align.convert`: print another program's configuration as a command line of align.

It reads TRL's configurations, and the JSON files of older scripts. Standard output is the command alone; standard error
lists what each key became. Imports no torch.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from align.cli import older_keys, trl_keys
from align.cli.compose import composed
from align.cli.conversion import Conversion, check_bits, check_flags
from align.cli.trl_fields import COMMANDS, TRAINERS
from align.cli.trl_hints import known
from align.errors import InputError

METHODS = (*older_keys.METHODS, *(name for name in TRAINERS if name not in older_keys.METHODS))
_DESCRIPTION = "Print a configuration of TRL's, or an older script's, as a command line of align."
_FLAGS = (
    *older_keys.FLAGS,
    "use_peft",
    "bf16",
    "fp16",
    "use_cpu",
    "mask_truncated_completions",
    "gradient_checkpointing",
)


def main(arguments: list[str] | None = None) -> int:
    """Convert the file that the arguments (None = `sys.argv`) name; return 0, or 2 where it is refused."""
    parser = argparse.ArgumentParser(prog="python -m align.convert", description=_DESCRIPTION)
    parser.add_argument("file", type=Path, help="a JSON or YAML file")
    parser.add_argument("--method", choices=(*METHODS, *COMMANDS), help="where the file does not name it")
    parser.add_argument("--rows", type=int, help="training rows, which convert epochs and ratios to updates")
    parser.add_argument("--allow-unknown", action="store_true", help="leave out what cannot be converted, and go on")
    options = parser.parse_args(arguments)
    try:
        done = convert(_read(options.file), options.method, options.rows)
        for line in done.lines:
            print("{} {} -> {}".format(*line), file=sys.stderr)
        if done.unknown and not options.allow_unknown:
            raise InputError(str(options.file), ", ".join(done.unknown), "keys that convert, or --allow-unknown")
        composed(done.words)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(shlex.join(["align", *done.words]))
    return 0


def convert(old: Mapping[str, Any], method: str | None = None, rows: int | None = None) -> Conversion:
    """Convert the configuration `old`; `method` None = the value of `old["method"]`, else inferred from the keys.

    Args:
        rows: Rows that are trained on, None = unknown.

    Raises:
        InputError: the method cannot be inferred, or `old` contradicts itself.
    """
    if rows is not None and rows < 1:
        raise InputError("--rows", rows, "1 or more")
    old = trl_keys.flat(old)
    mark = _older_mark(old)
    name, why = _method(old, method, mark)
    check_flags(old, _FLAGS)
    check_bits(old)
    out = Conversion(old, name, {} if mark else trl_keys.unset(old, name), rows)
    if why:
        out.lines.append(("method", "unset", f"method={name} ({why})"))
    tables = (older_keys, trl_keys) if mark else (trl_keys, older_keys)
    for key, value in out.old.items():
        try:
            if not any(table.convert_key(out, key, value) for table in tables):
                out.refuse(key, "unknown")
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(key, value, "text, a number, true, false or null, as the key has it") from error
    if mark and out.groups.get("model") == "local" and "adapter" not in out.groups:
        out.choose("use_lora", "adapter", "none", "the older scripts train every weight")
    return out


def _older_mark(old: Mapping[str, Any]) -> str | None:
    """Find a key of older scripts that TRL lacks; `method` counts where none of the other keys is TRL's alone."""
    marks = [key for key in old if key in older_keys.KEYS and not known(key)]
    if marks == ["method"] and any(known(key) and key not in older_keys.KEYS for key in old):
        return None
    return next((key for key in marks if key != "method"), next(iter(marks), None))


def _method(old: Mapping[str, Any], given: str | None, mark: str | None) -> tuple[str, str]:
    """Find the method, and why it is that one where nothing names it; `mark` is a key of older scripts alone."""
    name, why = given or old.get("method"), ""
    if name is None and mark is not None:
        name, why = older_keys.infer(old)
    elif name is None:
        name, why = trl_keys.infer(old)
        if name is None:
            raise InputError("method", why, f"--method, one of {', '.join(METHODS)}")
    name = COMMANDS.get(str(name), name)
    allowed = older_keys.METHODS if mark is not None else METHODS
    if name not in allowed:
        beside = f" with {mark}, a key of older scripts" if mark is not None else ""
        raise InputError("method", name, f"--method, one of {', '.join(allowed)}{beside}")
    return str(name), why


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = _yaml(path) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("file", str(path), f"a JSON or YAML file that can be read ({error})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}", error.msg, "well-formed JSON") from error
    if not isinstance(content, dict):
        raise InputError(str(path), type(content).__name__, "a JSON object, or a YAML mapping")
    return {str(key): value for key, value in content.items()}


def _yaml(path: Path) -> Any:
    """Read plain values alone: OmegaConf's loader is PyYAML's safe one, which also reads 1e-5 as a number."""
    try:
        content = OmegaConf.load(path)
        return OmegaConf.to_container(content) if isinstance(content, DictConfig) else content
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        given = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(place, given, "well-formed YAML of plain values") from error
