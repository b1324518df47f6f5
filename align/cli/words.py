"""Order the words of a command line for Hydra's parser. Imports no torch."""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from align.cli.paths import literal_paths
from align.cli.trl_hints import hint, method_in
from align.errors import InputError


def raise_input_errors(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Make `parser` raise InputError on `words` where argparse would print its usage and exit."""

    def refuse(message: str) -> NoReturn:
        raise InputError("command line", " ".join(words), message)

    parser.error = refuse  # type: ignore[method-assign]


def flags_first(words: list[str]) -> list[str]:
    """Order the words for Hydra's parser, which refuses `a=1 --multirun b=2`; quote paths; refuse unknown flags."""
    parser = get_args_parser()
    raise_input_errors(parser, words)
    known, rest = parser.parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        field = unknown[0].lstrip("-").partition("=")[0]
        counterpart = hint(field, method_in(words))  # --learning_rate 1e-5, as on TRL's command line
        if counterpart is not None:
            raise InputError(f"--{field}", unknown[0], f"KEY=VALUE without dashes: {counterpart}")
        raise InputError("command line", " ".join(unknown), "the flags that align --help and align --hydra-help list")
    overrides = [*known.overrides, *rest]
    return [word for word in words if word not in overrides] + literal_paths(overrides)
