"""GRPO's own view of a rollout: what becomes an advantage under each option, and what an update does with it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from align.config import CreditConfig, KLController, RewardConfig, SparseCredit, UniformCredit
from align.config import GoldSource as GoldConfig
from align.errors import InputError, RunError
from align.metrics import Tally, compare, repeatable
from align.models import inputs
from align.models.policy import Policy
from align.trainers.grpo_config import Baseline, GroupKLConfig, GRPOConfig, KLEstimator, KLPlace, LossLength
from align.trainers.on_policy import Scored
from align.trainers.on_policy_config import RatioLevel
from align.types import RewardOutput
from tests import tiny
from tests.parity.sides import gradients, trainer

BETA = 0.25
ROWS = [[5, 6, 2], [7, 2], [4, 4, 4], [8, 9, 2]]
SCORES = torch.tensor([1.0, 3.0, 0.0, -2.0])


def made(path, **options):
    kl = GroupKLConfig(coef=BETA, place=options.pop("place", KLPlace.reward))
    settings = {"group_size": 2, "minibatch_size": 4, "scale_std": False, "kl": kl, "missing_eos_penalty": None}
    return trainer(path, GRPOConfig(**(settings | options)), batch_size=4)


def scored(credit_rewards: torch.Tensor) -> Scored:
    rollout = tiny.rollout_of(tiny.prompts(2), ROWS, samples=2)
    generator = torch.Generator().manual_seed(0)
    logp, ref = (-torch.rand(4, 3, generator=generator) * rollout.response_mask for _ in range(2))
    return Scored(rollout, RewardOutput(SCORES), credit_rewards, logp, ref)


def test_advantages_count_the_kl_of_the_whole_response_off_its_score(tmp_path):
    made_ = made(tmp_path)
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -2.0]])
    given = scored(rewards)
    found = made_.learn_from(given, Tally()).columns["advantages"]
    total = SCORES - BETA * (given.logprobs - given.ref_logprobs).sum(1)
    expected = (total - total.view(2, 2).mean(1).repeat_interleave(2)).unsqueeze(1) * given.rollout.response_mask
    torch.testing.assert_close(found, expected)


def test_kl_in_the_loss_is_not_in_the_advantages_as_well(tmp_path):
    given = scored(torch.tensor([[0.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -2.0]]))
    found = made(tmp_path, place=KLPlace.loss).learn_from(given, Tally()).columns["advantages"]
    assert found.tolist() == [[-1, -1, -1], [1, 1, 0], [1, 1, 1], [-1, -1, -1]]


def test_dense_rewards_become_reward_to_go_over_the_groups_tokens(tmp_path):
    """Summed to one number, uniform credit would be sparse credit."""
    made_ = made(tmp_path, place=KLPlace.loss)
    made_.config.reward = RewardConfig(source=GoldConfig(), credit=UniformCredit())
    rewards = torch.tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, -1.0]])
    found = made_.learn_from(scored(rewards), Tally()).columns["advantages"]
    togo = torch.tensor([[3.0, 2.0, 1.0], [6.0, 3.0, 0.0], [0.0, 0.0, 0.0], [-2.0, -1.0, -1.0]])
    mask = tiny.rollout_of(tiny.prompts(2), ROWS, samples=2).response_mask
    means = torch.tensor([[3.0], [3.0], [-4 / 6], [-4 / 6]])
    torch.testing.assert_close(found, (togo - means) * mask)


def test_a_groups_prompt_counts_once_in_its_micro_batches(tmp_path, monkeypatch):
    """A budget that holds both rows of a group only because their prompt is read once."""
    rollout = tiny.rollout_of(tiny.prompts(2), ROWS, samples=2)
    longest = int((rollout.prompt_mask.sum(1) + 2 * rollout.response_mask.sum(1).max()).max())

    def passes(shared_from: int) -> tuple[int, int]:
        """Of the log-probabilities and of an update."""
        read, learnt = [], []
        logprobs = Policy.response_logprobs
        made_ = made(tmp_path / str(shared_from), micro_batch_tokens=longest)
        backward = made_.backward
        with monkeypatch.context() as patch:
            patch.setattr(inputs, "SHARED_FROM", shared_from)
            patch.setattr(Policy, "response_logprobs", lambda *args: read.append(args) or logprobs(*args))
            patch.setattr(made_, "backward", lambda *args: learnt.append(args) or backward(*args))
            logp = made_.logprobs(rollout, made_.run.roles.policy)
            given = Scored(rollout, RewardOutput(SCORES), SCORES.unsqueeze(1) * rollout.response_mask, logp, logp)
            made_._one_update(made_.learn_from(given, Tally()))
        return len(read), len(learnt)

    assert passes(1) == (2, 2)
    assert passes(1000) == (4, 4)


# --- a rollout that one update uses up --------------------------------------------------------------------------------


def once(path, *, batch_size: int = 8, kl: GroupKLConfig | None = None, **options):
    kl = kl or GroupKLConfig(coef=BETA)
    settings = {"group_size": 4, "minibatch_size": 8, "learning_rate": 1e-2, "kl": kl, "missing_eos_penalty": None}
    return trainer(path, GRPOConfig(**(settings | options)), batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"minibatch_size": 4}, False),
        ({"epochs": 2}, False),
        ({"kl": GroupKLConfig(coef=BETA, place=KLPlace.reward)}, False),
        ({"kl": GroupKLConfig(coef=0.0, place=KLPlace.reward)}, True),
        ({"kl": GroupKLConfig(coef=BETA, budget=1e9)}, False),
        ({"kl": GroupKLConfig(coef=BETA, controller=KLController.adaptive)}, False),
    ],
)
def test_the_old_policy_is_read_beforehand_only_where_somebody_asks(tmp_path, options, expected):
    made_ = once(tmp_path, **options)
    assert made_.read_once is expected
    assert ("logprobs" in made_.collect().columns) is not expected


def same_training(path, a, b, **options) -> None:
    """Three rollouts under each KL configuration give the same figures and weights."""
    ones, others = once(path / "a", kl=a, **options), once(path / "b", kl=b, **options)
    assert ones.read_once and not others.read_once
    for _ in range(3):
        found, expected = ones.update(), others.update()
        assert set(found) == set(expected)
        assert expected["kl/per_response_k1"] != 0 and expected["policy/sampling_gap"] > 0
        for name, value in expected.items():
            if not name.startswith(("time/", "throughput/", "memory/")):
                assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    for found, expected in zip(*(m.run.roles.policy.model.parameters() for m in (ones, others)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"ratio": RatioLevel.sequence}, {"micro_batch_tokens": 40}])
@pytest.mark.parametrize("estimator", [KLEstimator.k3, KLEstimator.k3_corrected])
def test_the_updates_own_reading_stands_for_the_old_policy(tmp_path, estimator, options):
    kl = GroupKLConfig(coef=BETA, estimator=estimator)
    same_training(tmp_path, kl, dataclasses.replace(kl, budget=1e9), **options)


def test_a_rollout_that_is_used_once_is_read_once(tmp_path, monkeypatch):
    """By the reference, and in the update; the policy without gradient only the first time, for the check."""
    made_, read = once(tmp_path), []
    logprobs = Policy.response_logprobs
    monkeypatch.setattr(Policy, "response_logprobs", lambda self, *args: read.append(self) or logprobs(self, *args))
    roles = made_.run.roles
    for k in range(3):
        read.clear()
        made_.update()
        assert read == [roles.reference] + [roles.policy] * (k == 0)


def test_passes_that_differ_are_noticed_where_no_ratio_shows_it(tmp_path, monkeypatch):
    made_ = once(tmp_path)
    before = [p.clone() for p in made_.run.roles.policy.model.parameters()]
    logprobs = Policy.response_logprobs
    shifts = torch.tensor([0.1, -0.1]).repeat(50)  # cancels in the mean
    monkeypatch.setattr(
        Policy, "response_logprobs", lambda self, *args: (out := logprobs(self, *args)) + shifts[: out.shape[1]]
    )
    with pytest.raises(RunError, match="approx_kl"):
        made_.update()
    assert all(torch.equal(a, b) for a, b in zip(before, made_.run.roles.policy.model.parameters(), strict=True))


def test_a_resumed_run_that_reads_once_goes_on_bit_for_bit(tmp_path):
    straight, again = once(tmp_path / "straight"), once(tmp_path / "again")
    for _ in range(2):
        straight.update()
    straight.save_checkpoint()
    again.resume(tmp_path / "straight" / "grpo_step_2")
    for _ in range(2):
        assert repeatable(again.update()) == repeatable(straight.update())
    both = (m.run.roles.policy.model.state_dict() for m in (straight, again))
    for expected, found in zip(*(state.values() for state in both), strict=True):
        assert torch.equal(expected, found)


# --- gradients, runs, options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LossLength)
@pytest.mark.parametrize("estimator", [KLEstimator.k2, KLEstimator.k3])
def test_splitting_into_micro_batches_changes_no_gradient(tmp_path, length, estimator):
    kl = GroupKLConfig(coef=BETA, place=KLPlace.loss, estimator=estimator)
    method = GRPOConfig(group_size=2, minibatch_size=4, loss_length=length, kl=kl)
    slopes = []
    for parts in ([[0, 1, 2, 3]], [[2], [0, 3], [1]]):
        trainer_ = trainer(tmp_path, method, batch_size=4)
        experience = trainer_.learn_from(scored(torch.tensor([[1.0, 0, 2], [3, 0, 0], [0, 1, 0], [1, 1, 1]])), Tally())
        tokens = int(experience.rollout.response_mask.sum())
        for part in parts:
            trainer_.backward(experience.rows(torch.tensor(part)), tokens, Tally())
        slopes.append(gradients(trainer_.run.roles.policy.model))
    assert float((slopes[1] - slopes[0]).norm() / slopes[0].norm()) < 1e-5


def test_a_run_reports_what_the_table_of_metrics_promises_and_learns(tmp_path):
    method = GRPOConfig(
        group_size=8, minibatch_size=32, learning_rate=5e-3, missing_eos_penalty=None, kl=GroupKLConfig(coef=0.0)
    )
    trainer_ = trainer(tmp_path, method, steps=12, batch_size=32)
    scores = []
    for _ in range(12):
        metrics = trainer_.update()
        scores.append(metrics["reward/score_mean"])
        record = metrics | {"step": 1, "seconds": 0.0, "rollout": 0, "update": 1, "time/total": 0.0}
        assert compare(record, "grpo") == (set(), set())
        assert metrics["policy/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.15


@pytest.mark.parametrize(
    ("options", "credit", "key"),
    [
        ({"group_size": 1}, SparseCredit(), "method.group_size"),
        ({"group_size": 3}, SparseCredit(), "method.group_size"),
        ({"baseline": Baseline.leave_one_out}, UniformCredit(), "method.baseline"),
        ({"clip_high": -0.1}, SparseCredit(), "method.clip_high"),
    ],
)
def test_options_that_cannot_run_are_refused(options, credit: CreditConfig, key):
    config = tiny.config(reward=RewardConfig(source=GoldConfig(), credit=credit))
    config.method = dataclasses.replace(GRPOConfig(minibatch_size=8, group_size=4), **options)
    with pytest.raises(InputError) as error:
        config.method.check(config)
    assert error.value.key == key
