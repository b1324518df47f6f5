"""The command line of `python -m align.evaluate`: its words, and the configuration that they mean. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from align.cli.errors import explain
from align.cli.groups import CONF
from align.config import Config
from align.config.io import build, load_unchecked
from align.errors import InputError

_SPEED = ("device", "precision", "threads", "engine", "rollout.decode_batch_size", "rollout.cuda_graphs")
FREE = ("evaluation", *_SPEED)  # of a run measured again
_DESCRIPTION = """\
Evaluate without training. TARGET is the folder of a finished run (both its models again, into RUN/evaluations/N), a
model's folder or Hub id (on the data that the overrides choose; the embedded world's by default), or a reward model's
(its report: accuracy, calibration, what moves its score)."""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """target, overrides, out, against, by. Raises InputError where argparse would print its usage and exit."""
    parser = argparse.ArgumentParser(prog="python -m align.evaluate", description=_DESCRIPTION)
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as of `align`; of a run: evaluation.*, ...")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder that the results go to")
    parser.add_argument("--against", metavar="MODEL", help="the start model that a model is compared with")
    parser.add_argument("--by", action="append", metavar="COLUMN", help="tell a reward model's accuracy apart by it")

    def refuse(message: str) -> NoReturn:
        raise InputError("command line", " ".join(words), message)

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(words)


def composed(model: str, overrides: Sequence[str]) -> Config:
    """A composition whose start model is `model`."""
    quoted = model.replace("\\", "\\\\").replace("'", "\\'")
    words = ["model=local", f"model.path='{quoted}'", *overrides]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return build(compose("config", words))
    except Exception as error:
        raise explain(error, words) from error


def saved_by(run: Path, overrides: Sequence[str]) -> Config:
    """The run's own configuration, with the changes that leave it the same run."""
    try:
        saved = load_unchecked(run / "config.yaml")
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            key = override.key_or_group
            if not any(key == free or key.startswith(f"{free}.") for free in FREE) or key == "evaluation":
                allowed = ", ".join(f"{free}.*" if free == "evaluation" else free for free in FREE)
                raise InputError(key, override.input_line, f"{allowed}: the rest is the run's own")
            OmegaConf.update(saved, key, override.value())
        return build(saved)
    except Exception as error:
        raise explain(error, list(overrides)) from error
