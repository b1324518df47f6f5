"""`method=reward_model`: the run's reward model alone, measured and left in the run's folder.

The runner has trained it, or found it stored, before any method starts (run/reward_models.py); here it is measured
on the held-out pairs. The policy stays the start model, and its evaluation says what the reward model makes of it.
"""

import shutil
from pathlib import Path
from typing import Any

from align.errors import InputError
from align.loop.context import RunContext
from align.loop.method import Method
from align.models.locate import locate
from align.models.reward_folder import read_card
from align.rewards.pairs import longer_wins, pair_accuracy


class MeasuredRewardModel(Method):
    def __init__(self, run: RunContext) -> None:
        """Raises InputError where reward.source.path is no folder: what is on the Hub is stored there."""
        super().__init__(run)
        assert run.reward_folder is not None
        found = locate(str(run.reward_folder), key="reward.source.path")
        if not found.is_local:
            raise InputError("reward.source.path", str(run.reward_folder), "a folder, with method=reward_model")
        if run.roles.reward is None:
            allowed = "a causal reward model with the policy's tokenizer and chat template, with method=reward_model"
            raise InputError("reward.source.path", str(run.reward_folder), allowed)
        self._folder = found.adapter or Path(found.base)

    @property
    def step(self) -> int:
        return 0

    def train(self) -> None:
        """Nothing: the reward model is there already."""

    def figures(self) -> dict[str, Any]:
        """Accuracy on this run's held-out pairs, and that of the judge who prefers the longer response."""
        scorer, pairs = self.run.roles.reward, self.run.held_out
        assert scorer is not None
        card = read_card(self._folder)
        measured = {
            "accuracy": pair_accuracy(scorer, self.run.chat, pairs, self.run.activity) if pairs else None,
            "longer_wins": longer_wins(pairs) if pairs else None,
            "held_out_pairs": len(pairs),
        }
        training = {} if card is None else {"train_pairs": card.train_pairs, "seconds": card.seconds}
        return {"reward_model": measured | training | {"folder": str(self._folder)}}

    def save(self, folder: Path) -> None:
        """The stored folder as it is: body or adapter, head, tokenizer and card."""
        shutil.copytree(self._folder, folder, dirs_exist_ok=True)
