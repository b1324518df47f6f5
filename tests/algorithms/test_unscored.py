"""A response to which the reward does not apply: in no mean, no baseline, and not learned from."""

from __future__ import annotations

import pytest
import torch

from align.config import Returns, Truncated
from align.config.methods import GRPOConfig
from align.functional.groups import group_advantages
from align.loop.loop import Loop
from align.metrics import compare
from align.rewards.function import FunctionScorer
from align.types import Experience
from tests import tiny
from tests.algorithms import runs
from tests.contexts import loop_of


class Some:
    """The score of every response but each third one, whatever the text."""

    def __init__(self, other: float | None, every: int = 3) -> None:
        self.other, self.every, self.scores = other, every, []

    def __call__(self, completions):
        self.scores = [self.other if i % self.every == 0 else float(i % 5) for i in range(len(completions))]
        return self.scores


def started(folder, method: str, other: float | None, every: int = 3, **rollout) -> tuple[Loop, tiny.Recorder, Some]:
    function = Some(other, every)
    source = FunctionScorer(function, Returns.response, "f.py:f")
    if method == "ppo":
        settings = {"whiten_rewards": True, "critic_learning_rate": 1e-3}
        return *tiny.loop(folder, tiny.config(method=settings, rollout=rollout), source=source), function
    cfg = runs.config(GRPOConfig(group_size=4, minibatch_size=8), runs.write_data(folder / "data"), rollout=rollout)
    run, recorder = runs.context(folder, cfg, source=source, prompts=tiny.prompts())
    return loop_of(run), recorder, function


def collected(*given, **more) -> tuple[Experience, list[float | None]]:
    loop, _, function = started(*given, **more)
    found = loop._collect()
    assert isinstance(found, Experience)
    return found, function.scores


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_it_is_in_no_mean_and_no_baseline(tmp_path, method):
    found, scores = collected(tmp_path, method, None)
    counted = torch.tensor([score is not None for score in scores])
    plain = torch.tensor([score or 0.0 for score in scores])
    columns, metrics = found.columns, found.metrics
    assert columns["learned"].bool().equal(counted) and columns["scored"].bool().equal(counted)
    assert not columns["advantages"][~counted].any() and columns["advantages"][counted].any()
    assert metrics["reward/score_mean"] == metrics["reward/part_f"] == pytest.approx(float(plain[counted].mean()))
    share = pytest.approx(float((~counted).float().mean()))
    assert metrics["reward/unscored_rate"] == share and metrics["reward/not_applicable_f"] == share
    if method == "grpo":
        expected = group_advantages(plain, 4, scale_std=True, counted=counted).unsqueeze(1)
        torch.testing.assert_close(columns["advantages"], expected * found.rollout.response_mask)


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_run_in_which_nothing_is_scored_goes_on_and_learns_nothing(tmp_path, method):
    loop, seen, _ = started(tmp_path, method, None, every=1)
    before = tiny.weights(loop.run.roles.policy)
    loop.train()
    assert seen.column("reward/unscored_rate") == [1.0] * len(seen.records)
    assert compare(seen.records[0], method)[1] == set() and tiny.same(before, tiny.weights(loop.run.roles.policy))
    sample = seen.rollouts[0][1][0]
    assert sample["score"] is None and sample["parts"] == {"f": None} and not any(sample["token_rewards"])


def test_a_cut_response_is_paid_the_score_of_truncation_all_the_same(tmp_path):
    found, _ = collected(tmp_path, "ppo", None, every=1, truncated=Truncated.penalise, truncated_score=-2.0)
    cut = ~found.rollout.ended
    assert int(cut.sum()) > 0 and found.columns["scored"].tolist() == cut.float().tolist()
