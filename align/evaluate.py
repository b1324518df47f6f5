"""`python -m align.evaluate RUN_OR_MODEL`: a run's evaluation again, a model's, or a reward model's report.

Exit codes: 0 done; 2 the input was refused; 1 the evaluation failed; 130 interrupted. Tracebacks only with
ALIGN_TRACEBACK=1.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from align.cli.errors import exit_code, one_line
from align.cli.evaluate import composed, parse, saved_by
from align.config import Config
from align.config.checks import model_folder
from align.config.io import register_schemas
from align.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 the input was refused, 1 the evaluation failed, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _evaluate(parse(words))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("ALIGN_TRACEBACK") == "1":
            traceback.print_exception(error)
        code = exit_code(error)
        print(f"{'error' if code == 2 else 'evaluation failed'}: {one_line(error)}", file=sys.stderr)
        return code
    return 0


def _evaluate(wanted: argparse.Namespace) -> None:
    register_schemas()
    run = Path(os.path.expanduser(wanted.target))
    if (run / "config.yaml").is_file():
        _evaluate_run(run, wanted)
        return
    target = os.path.expanduser(wanted.target)
    model_folder("TARGET", target)
    start = target if wanted.against is None else os.path.expanduser(wanted.against)
    config = composed(start, wanted.overrides)
    out = wanted.out or Path("outputs") / "evaluate" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    from align.models.load import is_reward_model

    if not is_reward_model(target, config.model.revision, key="TARGET"):
        _refuse("--by", wanted.by, "of a reward model only")
        _measure(config, _fresh(out), None if wanted.against is None else target)
        return
    _refuse("--against", wanted.against, "of a language model only")
    _report(config, _fresh(out), wanted.by)


def _evaluate_run(run: Path, wanted: argparse.Namespace) -> None:
    if not (run / "model").is_dir():
        raise InputError("TARGET", wanted.target, "a finished run (this one has no model/ yet)")
    _refuse("--against", wanted.against, "of a model only: a run is compared with its own start model")
    config = saved_by(run, wanted.overrides)
    out = wanted.out or run / "evaluations" / str(_next(run / "evaluations"))
    if config.method.name == "reward_model":
        _report(config, _fresh(out), wanted.by, model=run / "model")
        return
    _refuse("--by", wanted.by, "of a reward model only")
    _measure(config, _fresh(out), run)


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

    from align.callbacks.console import before_after
    from align.run.runner import measure

    result = measure(config, out, weights=weights)
    console = Console()
    console.print(before_after(result["before"], result["after"] or {}))
    console.print(Text(f"{out / 'evaluation.json'}"), soft_wrap=True)


def _report(config: Config, out: Path, by: Sequence[str] | None, model: Path | None = None) -> None:
    from align.evaluation.reward_run import report

    report(config, out, by, config.model.path if model is None else str(model))


if __name__ == "__main__":
    sys.exit(main())
