"""A reward that fails in the middle of a run costs the run nothing that it had learnt; a running scale comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from align.config import Returns
from align.errors import RunError
from align.loop.loop import Loop
from align.metrics import repeatable
from align.rewards.function import FunctionScorer
from align.rewards.normalise import Running, Scaled
from tests import tiny


def vowels(responses):
    return [sum(c in "aeiou" for c in text) for text in responses]


class Failing:
    """From the given call on."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, responses):
        self.left -= 1
        return vowels(responses) if self.left > 0 else [*vowels(responses)[:-1], float("nan")]


def start(folder: Path, function, every: int = 0) -> tuple[Loop, tiny.Recorder]:
    cfg = tiny.config(max_steps=7, checkpoint_every=every, method={"epochs": 1, "critic_learning_rate": 3e-3})
    source = Scaled(FunctionScorer(function, Returns.response, "f.py:f"), Running(), clip=1.5)
    return tiny.loop(folder, cfg, source=source)


@pytest.mark.parametrize("every", [0, 3])
def test_the_run_ends_with_a_checkpoint_from_which_it_goes_on(tmp_path, every):
    """Two updates a rollout: the third rollout fails after step 4, and with the function repaired nothing is lost."""
    straight, expected = start(tmp_path / "straight", vowels)
    straight.train()
    broken, before = start(tmp_path / "broken", Failing(3), every)
    with pytest.raises(
        RunError, match=r"^f\.py:f: returned nan at sample 15 \(prompt \d+\); allowed: a finite number$"
    ):
        broken.train()
    assert [step for step, _ in before.checkpoints] == ([3, 4] if every else [4])
    again, after = start(tmp_path / "broken", vowels)
    again.resume(tmp_path / "broken" / "ppo_step_4")
    again.train()
    joined = [repeatable(r) for r in (*before.records, *after.records)]
    assert joined == [repeatable(r) for r in expected.records] and len(joined) == 7
    assert {"reward/raw_mean", "reward/raw_std", "reward/part_f"} <= set(joined[0])
    assert joined[0]["reward/raw_mean"] > 0.5 > abs(joined[0]["reward/score_mean"])
    assert again.run.source.state() == straight.run.source.state()
    ends = [[p for role in t.run.modules.values() for p in tiny.weights(role)] for t in (straight, again)]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_in_the_middle_of_a_rollouts_updates_a_running_scale_is_not_counted_twice(tmp_path):
    straight, expected = start(tmp_path / "straight", vowels, every=3)
    straight.train()
    again, after = start(tmp_path / "again", vowels)
    again.resume(tmp_path / "straight" / "ppo_step_6")
    again.train()
    assert [repeatable(r) for r in after.records] == [repeatable(r) for r in expected.records[6:]]
    assert again.run.source.state() == straight.run.source.state()


def test_a_failure_before_the_first_update_leaves_no_checkpoint(tmp_path):
    broken, seen = start(tmp_path, Failing(1))
    with pytest.raises(RunError):
        broken.train()
    assert not seen.checkpoints and not list(tmp_path.glob("ppo_step_*"))
