"""Turn any failure into one line and an exit code: 2 = the user's input, 1 = the run, 130 = interrupted.

Hydra and OmegaConf report a mistake as chained exceptions of several lines; `explain` reduces the chain to the key,
what was given and what is allowed. Imports no torch.
"""

import dataclasses
import os
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from enum import Enum
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException, SearchPathException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from align.cli.groups import groups, options
from align.cli.trl_hints import hint, method_in
from align.config import JudgeConfig, NoCredit, NoSource
from align.config.groups import POLYMORPHIC
from align.errors import InputError, chain, with_cause


def exit_code(error: BaseException) -> int:
    """Return the process's exit code for a failure inside a job."""
    return 2 if isinstance(error, InputError) else 1


def one_line(error: BaseException) -> str:
    """Return the failure on one line, behind its type unless the failure is an InputError, and its first cause.

    An InputError says what it is about by itself.
    """
    return " ".join(str(error).split()) if isinstance(error, InputError) else with_cause(error)


def ended(command: Callable[[], None], name: str) -> int:
    """Run a command to its end and print a failure on one line under `name`; return the exit code."""
    try:
        command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("ALIGN_TRACEBACK") == "1":
            traceback.print_exception(error)
        code = exit_code(error)
        print(f"{'error' if code == 2 else f'{name} failed'}: {one_line(error)}", file=sys.stderr)
        return code
    return 0


def explain(error: BaseException, words: Sequence[str]) -> InputError:
    """Convert what Hydra raised on the `words` of a command line to key, what was given and what is allowed."""
    links = list(chain(error, hidden=True))
    for link in links:
        if isinstance(link, InputError):
            return added_key(link, words)
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            group, _, option = str(link.missing_cfg_file).rpartition("/")  # method=ppoo
            return InputError(group or "--config-name", option, ", ".join(link.options or options(group)) or "none")
        if isinstance(link, SearchPathException):
            return InputError("--config-dir", str(link).split("'")[1], "a folder that exists")
        if isinstance(link, OverrideParseException):
            return InputError("command line", link.override, "KEY=VALUE or GROUP=OPTION, in quotes where it has , or [")
        if isinstance(link, OSError) and link.filename:
            return InputError("hydra.run.dir", str(link.filename), f"a folder that can be written ({link.strerror})")
    for link in reversed(links):
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            lookup = isinstance(link, (ConfigAttributeError, ConfigKeyError))
            return _unknown_key(link, words) if lookup else _bad_value(link, words)
    return _other(error, words)


RENAMED = {  # older keys, and what says the same now
    "method.missing_eos_penalty": "rollout.truncated_score with rollout.truncated=penalise; keep for null",
}


def added_key(error: InputError, words: Sequence[str]) -> InputError:
    """Explain `+method.per_device_train_batch_size=4`, where the key is a field of TRL's, by its counterpart."""
    refused = isinstance(error.given, str) and error.given == f"+{error.key}"
    allowed = hint(error.key.rpartition(".")[2], method_in(words)) if refused else None
    return InputError(error.key, error.given, allowed) if allowed else error


def _unknown_key(error: OmegaConfBaseException, words: Sequence[str]) -> InputError:
    """Explain `method.gama=1` by the nearest key, else by keys of that name elsewhere, else by the section's keys.

    A field of TRL's is explained by its counterpart, but for one that a key elsewhere shares its name with.
    """
    full_key, key = str(error.full_key), str(error.key)
    given = next((word for word in words if word.lstrip("+~").startswith(full_key)), key)
    if full_key in RENAMED:
        return InputError(full_key, given, RENAMED[full_key])
    if "/" in full_key:
        near = get_close_matches(full_key, groups(), n=1, cutoff=0.5)
        return InputError(full_key, given, ", ".join(near or groups()))
    section = full_key.rpartition(".")[0]
    if error.object_type is dict:  # a mapping of the user's own keys, which Hydra only adds to
        return InputError(full_key, given, f"+{section}.KEY=VALUE, since every key there is an added one")
    if error.object_type in (NoSource, NoCredit):
        group = section.replace(".", "/")
        allowed = f"nothing while {group}=none; choose one that has the key: {group}={_with_key(section, key)}"
        if section == "reward.source" and key in JudgeConfig.__dataclass_fields__:
            allowed += f"; evaluation.judge.{key} is that of the judge of evaluation.reward_model=train"
        return InputError(full_key, given, allowed)
    keys = [f.name for f in dataclasses.fields(error.object_type)] if error.object_type else []
    root = error.parent_node._get_root() if error.parent_node is not None else None
    elsewhere = list(_keys_named(key, root)) if isinstance(root, DictConfig) else []
    method = OmegaConf.select(root, "method.name") if isinstance(root, DictConfig) else method_in(words)
    counterpart = None if elsewhere else hint(key, method)
    if counterpart is not None:
        return InputError(full_key, given, counterpart)
    near = get_close_matches(key, [*keys, *(groups() if not section else ())], n=1)
    if near and (section or not elsewhere):  # a key without its section is no misspelling of the root's
        return InputError(full_key, given, f"{near[0]}, the nearest key{f' of {section}' if section else ''}")
    return InputError(full_key, given, ", ".join(elsewhere or keys))


def _with_key(section: str, key: str) -> str:
    """Name the options of a polymorphic section that have `key`; all where none has."""
    classes = POLYMORPHIC[section]
    found = [name for name, schema in classes.items() if hasattr(schema, key) or key in schema.__annotations__]
    return "|".join(found or [name for name in classes if name != "none"])


def _keys_named(name: str, node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Find the full keys below `node` whose last part is `name`, without Hydra's own."""
    for key in map(str, node):
        child = node._get_node(key)
        if key == name:
            yield f"{prefix}{key}"
        if isinstance(child, DictConfig) and key != "hydra" and not (child._is_none() or child._is_missing()):
            yield from _keys_named(name, child, f"{prefix}{key}.")


def _bad_value(error: OmegaConfBaseException, words: Sequence[str]) -> InputError:
    """Explain `max_steps=abc` by what the key's type allows."""
    full_key = str(error.full_key)
    written = [word.partition("=")[2] for word in words if word.partition("=")[0].lstrip("+") == full_key]
    given = written[-1] if written else error.value
    if given is None or error.object_type is None or not dataclasses.is_dataclass(error.object_type):
        return InputError(full_key, given, " ".join(str(error).splitlines()[0].split()))
    hint = typing.get_type_hints(error.object_type).get(str(error.key), Any)
    return InputError(full_key, given, _describe(hint, full_key))


def _describe(hint: Any, key: str) -> str:
    """Describe the values that a key of type `hint` accepts."""
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(part, key) for part in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        return "a list such as [a,b]"
    if not isinstance(hint, type):
        return str(hint)
    if issubclass(hint, Enum):
        return ", ".join(member.name for member in hint)
    if dataclasses.is_dataclass(hint):
        group = key.replace(".", "/")
        if group in groups():
            return f"{group}=OPTION (a group is written with /), one of {', '.join(options(group))}"
        return f"its keys one by one: {', '.join(f'{key}.{f.name}' for f in dataclasses.fields(hint))}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return names.get(hint, hint.__name__)


def _other(error: BaseException, words: Sequence[str]) -> InputError:
    """Explain an error without a key: a group given a number, a list without --multirun, a wrong flag."""
    message = " ".join(str(error).split()) or type(error).__name__
    for word in words:
        key, assigned, value = word.lstrip("+").partition("=")
        if assigned and f"'{word}'" in message:
            return InputError(key, value, "one value, or --multirun to try each, or [a,b] for a list")
        if key in groups() and value not in options(key) and "," not in value:
            return InputError(key, value, ", ".join(options(key)))
    return InputError("command line", " ".join(words), message)
