"""Methods by name. Imports neither torch nor a trainer until one is asked for.

Adding a method = `<method>_config.py` and `<method>.py` in this folder, one line here, one YAML in `conf/method`, one
test.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from align.config import MethodConfig
from align.errors import InputError


@dataclass(frozen=True)
class Entry:
    """Where a method lives, as `module:attribute`."""

    config: str
    trainer: str


METHODS: dict[str, Entry] = {
    "ppo": Entry("align.trainers.ppo_config:PPOConfig", "align.trainers.ppo:PPOTrainer"),
    "grpo": Entry("align.trainers.grpo_config:GRPOConfig", "align.trainers.grpo:GRPOTrainer"),
    "dpo": Entry("align.trainers.dpo_config:DPOConfig", "align.trainers.dpo:DPOTrainer"),
    "sft": Entry("align.trainers.sft_config:SFTConfig", "align.trainers.sft:SFTTrainer"),
    "reward_model": Entry(
        "align.trainers.reward_model_method_config:RewardModelMethodConfig",
        "align.trainers.reward_model_method:RewardModelMethod",
    ),
    "best_of_n": Entry("align.trainers.best_of_n_config:BestOfNConfig", "align.trainers.best_of_n:BestOfN"),
    "trl_dpo": Entry("align.trainers.trl_config:TRLDPOConfig", "align.trainers.trl_pairs:TRLDPO"),
    "trl_kto": Entry("align.trainers.trl_config:TRLKTOConfig", "align.trainers.trl_pairs:TRLKTO"),
    "trl_grpo": Entry("align.trainers.trl_config:TRLGRPOConfig", "align.trainers.trl_on_policy:TRLGRPO"),
    "trl_rloo": Entry("align.trainers.trl_config:TRLRLOOConfig", "align.trainers.trl_on_policy:TRLRLOO"),
}


def config_classes() -> dict[str, type[MethodConfig]]:
    """The option class of every method, by the method's name."""
    return {name: _load(entry.config) for name, entry in METHODS.items()}


def trainer_class(name: str) -> type[Any]:
    """The trainer of the method called `name`; imports torch.

    Raises:
        InputError: no such method.
    """
    if name not in METHODS:
        raise InputError("method", name, ", ".join(METHODS))
    return _load(METHODS[name].trainer)


def _load(address: str) -> Any:
    module, _, attribute = address.partition(":")
    return getattr(import_module(module), attribute)
