"""GRPO's own view of a rollout: what becomes an advantage under each option, and what an update does with it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from align.algorithms.on_policy import Scored
from align.config import AdapterConfig, CreditConfig, KLController, RewardConfig, SparseCredit, UniformCredit
from align.config import GoldSource as GoldConfig
from align.config.methods import Baseline, GroupKLConfig, GRPOConfig, KLEstimator, KLPlace, LossLength, RatioLevel
from align.engine.fast.limits import Limits
from align.engine.policy import Policy
from align.errors import InputError, RunError
from align.metrics import Tally, compare, repeatable
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
            patch.setattr(made_.run.roles.policy, "limits", Limits(shared_from=shared_from))
            patch.setattr(Policy, "response_logprobs", lambda *args: read.append(args) or logprobs(*args))
            patch.setattr(made_, "backward", lambda *args: learnt.append(args) or backward(*args))
            logp = made_.logprobs(rollout, made_.run.roles.policy)
            given = Scored(rollout, RewardOutput(SCORES), SCORES.unsqueeze(1) * rollout.response_mask, logp, logp)
            made_._one_update(made_.learn_from(given, Tally()))
        return len(read), len(learnt)

    assert passes(1) == (2, 2)
    assert passes(1000) == (4, 4)


# --- a rollout that one update uses up --------------------------------------------------------------------------------

LORA = AdapterConfig(name="lora", r=4, alpha=8)


def once(path, *, kl: GroupKLConfig | None = None, adapter=None, checkpointing=False, moved=True, **options):
    """Eight responses a rollout, for one update unless told."""
    kl = kl or GroupKLConfig(coef=BETA)
    settings = {"group_size": 4, "minibatch_size": 8, "learning_rate": 1e-2, "kl": kl, "missing_eos_penalty": None}
    method = GRPOConfig(**(settings | options))
    return trainer(path, method, batch_size=8, adapter=adapter, checkpointing=checkpointing, moved=moved)


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
    assert made_.old_is_current is expected
    assert ("logprobs" in made_.collect().columns) is not expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ratio": RatioLevel.sequence},
        {"kl": GroupKLConfig(coef=BETA, estimator=KLEstimator.k3_corrected)},
        {"micro_batch_tokens": 40},
        {"adapter": LORA},
        {"checkpointing": True},
        {"shared_from": 1},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_the_updates_own_reading_stands_for_the_old_policy(tmp_path, options):
    """Three rollouts give the same figures and weights with the policy read beforehand and without."""
    options = dict(options)
    limits = Limits(shared_from=options.pop("shared_from", 48))
    kl = options.pop("kl", GroupKLConfig(coef=BETA))
    ones = once(tmp_path / "a", kl=kl, **options)
    others = once(tmp_path / "b", kl=dataclasses.replace(kl, budget=1e9), **options)
    others.may_hold = lambda *_, **__: False
    assert ones.old_is_current and not others.old_is_current
    for made_ in (ones, others):
        tiny.nudge(made_.run.roles.policy, 0.01)  # of adapters too
        made_.run.roles.policy.limits = made_.run.roles.reference.limits = limits
    for _ in range(3):
        found, expected = ones.update(), others.update()
        assert set(found) == set(expected)
        assert abs(expected["kl/per_response_k1"]) > 1e-3
        gaps = found.pop("policy/sampling_gap"), expected.pop("policy/sampling_gap")
        assert gaps[0] == pytest.approx(gaps[1], rel=0.2) and gaps[1] > 1e-8
        for name, value in repeatable(expected).items():
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for found, expected in zip(*(m.run.roles.policy.model.parameters() for m in (ones, others)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_rollout_of_one_update_is_read_by_the_reference_and_in_the_update(tmp_path, monkeypatch):
    """By the policy without gradient on the first two alone, for the check."""
    made_, read = once(tmp_path), []
    logprobs = Policy.response_logprobs
    monkeypatch.setattr(Policy, "response_logprobs", lambda self, *args: read.append(self) or logprobs(self, *args))
    roles = made_.run.roles
    for k in range(4):
        read.clear()
        made_.update()
        assert read == [roles.reference] + [roles.policy] * (k < 2)


def test_passes_that_differ_are_noticed_where_no_ratio_shows_it(tmp_path, monkeypatch):
    made_ = once(tmp_path)
    before = [p.clone() for p in made_.run.roles.policy.model.parameters()]
    logprobs = Policy.response_logprobs
    shifts = torch.tensor([0.1, -0.1]).repeat(50)  # cancels in the mean
    monkeypatch.setattr(
        Policy, "response_logprobs", lambda self, *args: (out := logprobs(self, *args)) + shifts[: out.shape[1]]
    )
    with pytest.raises(RunError, match="passes with and without gradient"):
        made_.update()
    assert all(torch.equal(a, b) for a, b in zip(before, made_.run.roles.policy.model.parameters(), strict=True))


def test_a_pass_without_its_adapter_is_noticed_once_the_adapter_says_something(tmp_path, monkeypatch):
    """A fresh adapter changes nothing, so that the first rollout cannot tell."""
    made_ = once(tmp_path, adapter=LORA, moved=False)
    reference, logprobs = made_.run.roles.reference, Policy.response_logprobs
    monkeypatch.setattr(Policy, "response_logprobs", lambda _, *args: logprobs(reference, *args))
    made_.update()
    with pytest.raises(RunError, match="passes with and without gradient"):
        made_.update()


def test_what_is_not_finite_is_no_agreement(tmp_path):
    """An update that is not finite is skipped as ever, and the passes are compared on a later one."""
    made_ = once(tmp_path)
    rollout = made_.collect().rollout
    weight = made_.run.roles.policy.model.get_input_embeddings().weight
    with torch.no_grad():
        kept = weight[:, 0].clone()
        weight[:, 0] = float("nan")
        made_._check_passes(rollout)
        assert made_._passes_to_check == 2
        weight[:, 0] = kept
    made_._check_passes(rollout)
    assert made_._passes_to_check == 1


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
