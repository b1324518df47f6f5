"""List the configuration groups and their options from the folders under `conf/`, and make the help text."""

from functools import cache
from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "conf"  # in a wheel
_CHECKOUT = Path(__file__).parents[2] / "conf"  # in a checkout, or installed from one with pip install -e
CONF = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT

_HELP = """\
align: what preference alignment does to a language model, measured the same way for every method.

usage: align [GROUP=OPTION ...] [KEY=VALUE ...]          (or: python -m align ...)
       align show data|model [GROUP=OPTION ...] [KEY=VALUE ...]

  align                                       PPO, dense reward, embedded model and data
  align method=ppo reward=sparse seed=1
  align reward/credit=prefix method.kl.coef=0.1
  align model=local model.path=DIR data=jsonl data.path=FILE
  align -m reward=sparse,dense seed=0,1,2     every combination, one run each
  align -m experiment=methods arm=dpo,grpo    a named sweep, here of two of its arms
  align resume=RUN_DIR max_steps=200          continue a run
  align show data method=dpo --rows 3         rows, lengths, limits, what is in the loss; trains nothing
  align show data --random 5 --dropped [N]    other rows: --row I, --longest N; --diff, --html FILE
  align show model method=dpo                 the model, what is trained of it, the plan; trains nothing

groups and their options:
{groups}

keys (align --cfg job shows them all with their values):
  seed  max_steps  max_policy_tokens  precision  device  threads  engine  checkpoint.every_steps
  resume

flags:
  -m, --multirun      run every combination of the comma-separated values
  -c, --cfg job       print the composed configuration and stop
  --config-dir DIR    look for options in DIR as well
  -sc install=bash    shell completion: eval "$(align -sc install=bash)"
  --hydra-help        Hydra's own flags
"""


@cache
def groups() -> list[str]:
    """List every group by its name on the command line, without Hydra's own."""
    folders = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    return sorted(name for name in folders if name != "." and not name.startswith("hydra"))


def options(group: str) -> list[str]:
    """List the options of `group`; empty where the group does not exist."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def help_text() -> str:
    """Return the text that `align --help` prints."""
    width = max(map(len, groups()), default=0)
    return _HELP.format(groups="\n".join(f"  {name:<{width}}  {', '.join(options(name))}" for name in groups()))
