"""Algorithms by the name of their method. Imports no torch until one is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from align.errors import InputError

ALGORITHMS: dict[str, str] = {  # `module:class`; options of the same name are in align/config/groups.py
    "ppo": "align.algorithms.ppo:PPOTrainer",
    "grpo": "align.algorithms.grpo:GRPOTrainer",
    "dpo": "align.algorithms.dpo:DPOTrainer",
    "sft": "align.algorithms.sft:SFTTrainer",
    "reward_model": "align.algorithms.reward_model_method:RewardModelMethod",
    "best_of_n": "align.algorithms.best_of_n:BestOfN",
    "trl_dpo": "align.algorithms.trl.pairs:TRLDPO",
    "trl_kto": "align.algorithms.trl.pairs:TRLKTO",
    "trl_grpo": "align.algorithms.trl.on_policy:TRLGRPO",
    "trl_rloo": "align.algorithms.trl.on_policy:TRLRLOO",
}


def trainer_class(name: str) -> type[Any]:
    """Import the algorithm of the method called `name`.

    Raises:
        InputError: No such method.
    """
    if name not in ALGORITHMS:
        raise InputError("method", name, ", ".join(ALGORITHMS))
    module, _, attribute = ALGORITHMS[name].partition(":")
    return getattr(import_module(module), attribute)
