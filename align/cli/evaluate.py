"""Run the command `python -m align.evaluate`: evaluate a finished run or a model, or report on a reward model.

Exit codes: 0 done; 2 the input was refused; 1 the evaluation failed; 130 interrupted. Tracebacks only with
ALIGN_TRACEBACK=1. Imports no torch before the input is accepted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from align.cli.compose import composed
from align.cli.errors import ended, explain
from align.cli.quoting import quoted
from align.cli.resume import is_free
from align.cli.words import raise_input_errors
from align.config import TRAIN, Config, JudgeConfig
from align.config.checks import model_folder
from align.config.io import build, load_unchecked
from align.errors import InputError

_SPEED = ("device", "precision", "threads", "engine", "rollout.decode_batch_size", "rollout.cuda_graphs")
FREE = ("evaluation", *_SPEED)  # keys that may change when a finished run is evaluated again
_DESCRIPTION = """\
Evaluate without training. TARGET is the folder of a finished run (both its models again, into RUN/evaluations/N), a
model's folder or Hub id, on the data that the overrides choose, such as data=jsonl data.path=FILE (none are needed for
a model of the embedded world), or a reward model's (its report: accuracy, calibration, what moves its score)."""
_DATA = (
    "data=jsonl data.path=FILE, or another option of `align --help`: the embedded world's pairs say nothing of a model "
    "from elsewhere (data=pocket measures on them all the same)"
)
_CHOOSE_DATA = ("data", "arm", "experiment")  # groups


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate the target that the arguments (None = `sys.argv`) name; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return ended(lambda: _evaluate(parse(words)), "evaluation")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse target, overrides, out, against, by; raise InputError on what argparse refuses."""
    parser = argparse.ArgumentParser(prog="python -m align.evaluate", description=_DESCRIPTION)
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as of `align`; of a run: evaluation.*, ...")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder that the results go to")
    parser.add_argument("--against", metavar="MODEL", help="the start model that a model is compared with")
    of_columns = "a column to split a reward model's accuracy by"
    parser.add_argument("--by", action="append", metavar="COLUMN", help=of_columns)
    raise_input_errors(parser, words)
    return parser.parse_intermixed_args(words)


def _evaluate(wanted: argparse.Namespace) -> None:
    target = os.path.expanduser(wanted.target)
    if (Path(target) / "config.yaml").is_file():
        _evaluate_run(Path(target), wanted)
        return
    model_folder("TARGET", target)
    start = target if wanted.against is None else os.path.expanduser(wanted.against)
    config = composed([*_unless_given(wanted.overrides), f"model.path={quoted(start)}", *wanted.overrides])
    out = wanted.out or Path("outputs") / "evaluate" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    from align.models.load import is_reward_model, model_facts  # torch and everything behind it

    rewards = is_reward_model(target, config.model.revision, key="TARGET")
    if config.data.world is not None and not _names_data(wanted.overrides) and not model_facts(config.model).world:
        raise InputError("data", "nothing", _DATA)
    if not rewards:
        _refuse("--by", wanted.by, "of a reward model only")
        _measure(config, _fresh(out), None if wanted.against is None else target)
        return
    _refuse("--against", wanted.against, "of a language model only")
    _report(config, _fresh(out), wanted.by)


def _unless_given(overrides: Sequence[str]) -> list[str]:
    """Return what measuring a model stands on unless the user says otherwise: its own weights, and no reward."""
    given = {word.partition("=")[0] for word in overrides}
    chosen = {"model": "local", "method": "sft", "adapter": "none"}
    return [f"{group}={option}" for group, option in chosen.items() if group not in given]


def _names_data(overrides: Sequence[str]) -> bool:
    keys = {word.partition("=")[0].lstrip("+") for word in overrides}
    return any(key.partition(".")[0] in _CHOOSE_DATA for key in keys)


def _evaluate_run(run: Path, wanted: argparse.Namespace) -> None:
    if not (run / "model").is_dir():
        raise InputError("TARGET", wanted.target, "a finished run (this one has no model/ yet)")
    _refuse("--against", wanted.against, "of a model only: a run is compared with its own start model")
    config = _saved_by(run, wanted.overrides)
    out = wanted.out or run / "evaluations" / str(_next(run / "evaluations"))
    if config.method.name == "reward_model":
        _report(config, _fresh(out), wanted.by, model=run / "model")
        return
    _refuse("--by", wanted.by, "of a reward model only")
    _measure(config, _fresh(out), run)


def _saved_by(run: Path, overrides: Sequence[str]) -> Config:
    """Read the run's own configuration and apply overrides, of keys in FREE only."""
    try:
        saved, given = load_unchecked(run / "config.yaml"), OverridesParser.create().parse_overrides(list(overrides))
        judges = [override.value() for override in given if override.key_or_group == "evaluation.reward_model"]
        if judges and judges[-1] != TRAIN:
            saved.evaluation.judge = JudgeConfig()  # the run's own settings go with the judge that they trained
        for override in given:
            key = override.key_or_group
            if not is_free(key, FREE) or key == "evaluation":
                allowed = ", ".join(f"{free}.*" if free == "evaluation" else free for free in FREE)
                raise InputError(key, override.input_line, f"{allowed}: the rest is the run's own")
            OmegaConf.update(saved, key, override.value())
        return build(saved)
    except Exception as error:
        raise explain(error, list(overrides)) from error


def _refuse(flag: str, given: object, allowed: str) -> None:
    if given is not None:
        raise InputError(flag, given, allowed)


def _next(folder: Path) -> int:
    return 1 + max((int(p.name) for p in folder.glob("*") if p.name.isdecimal()), default=0)


def _fresh(out: Path) -> Path:
    if out.is_dir() and any(out.iterdir()):
        raise InputError("--out", str(out), "a folder that is empty or does not exist: nothing is overwritten")
    return out


def _measure(config: Config, out: Path, weights: Path | str | None) -> None:
    from rich.console import Console
    from rich.text import Text

    from align.callbacks.progress import before_after, show_verdicts, start_figures
    from align.run.runner import measure

    result = measure(config, out, weights=weights)
    console = Console()
    before, after = result["before"], result["after"]
    console.print(start_figures(before) if after is None else before_after(before, after))
    console.print(Text(f"{out / 'evaluation.json'}"), soft_wrap=True)
    show_verdicts(result["verdicts"], console)


def _report(config: Config, out: Path, by: Sequence[str] | None, model: Path | None = None) -> None:
    from align.evaluation.reward_run import report

    report(config, out, by, config.model.path if model is None else str(model))
