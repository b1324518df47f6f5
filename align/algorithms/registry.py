"""Algorithms by the name of their method. Imports no torch until one is asked for."""

from importlib import import_module
from typing import Any

from align.errors import InputError

ALGORITHMS: dict[str, str] = {  # `module:class`; options of the same name are in align/config/groups.py
    "ppo": "align.algorithms.ppo:PPO",
    "grpo": "align.algorithms.grpo:GRPO",
    "dpo": "align.algorithms.dpo:DPO",
    "sft": "align.algorithms.sft:SFT",
    "reward_model": "align.algorithms.measured_reward_model:MeasuredRewardModel",
    "best_of_n": "align.algorithms.best_of_n:BestOfN",
    "trl_dpo": "align.algorithms.trl.pairs:TRLDPO",
    "trl_kto": "align.algorithms.trl.pairs:TRLKTO",
    "trl_grpo": "align.algorithms.trl.on_policy:TRLGRPO",
    "trl_rloo": "align.algorithms.trl.on_policy:TRLRLOO",
}


def algorithm_class(name: str) -> type[Any]:
    """Import the class of the method called `name`: an algorithm of the loop's, or a Method.

    Raises:
        InputError: No such method.
    """
    if name not in ALGORITHMS:
        raise InputError("method", name, ", ".join(ALGORITHMS))
    module, _, attribute = ALGORITHMS[name].partition(":")
    return getattr(import_module(module), attribute)
