"""GRPO's own view of a rollout: what becomes an advantage under each option, and what an update does with it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from align.config import CreditConfig, RewardConfig, SparseCredit, UniformCredit
from align.config import GoldSource as GoldConfig
from align.config.methods import Baseline, GroupKLConfig, GRPOConfig, KLEstimator, KLPlace, LossLength, RatioLevel
from align.engine.fast.limits import Limits
from align.engine.passes import read_logprobs
from align.engine.reference import Policy
from align.errors import InputError
from align.loop.loop import Loop
from align.loop.protocol import Progress
from align.metrics import compare, repeatable
from align.types import Experience, Size
from tests import tiny
from tests.parity.sides import backward, gradients, loop

BETA = 0.25
ROWS = [[5, 6, 2], [7, 2], [4, 4, 4], [8, 9, 2]]
SCORES = torch.tensor([1.0, 3.0, 0.0, -2.0])


def made(path, **options):
    kl = GroupKLConfig(coef=BETA, place=options.pop("place", KLPlace.reward))
    settings = {"group_size": 2, "minibatch_size": 4, "scale_std": False, "kl": kl}
    return loop(path, GRPOConfig(**(settings | options)), batch_size=4)


def experience(made_: Loop, rewards: torch.Tensor) -> Experience:
    """Of these token rewards, under a policy and a reference that say anything."""
    rollout = tiny.rollout_of(tiny.prompts(2), ROWS, samples=2)
    generator = torch.Generator().manual_seed(0)
    logp, ref = (-torch.rand(4, 3, generator=generator) * rollout.response_mask for _ in range(2))
    columns = {"logprobs": logp, "ref_logprobs": ref}
    return Experience(rollout, columns | made_.algorithm.advantages(rewards, columns, rollout.response_mask)[0])


def test_advantages_count_the_kl_of_the_whole_response_off_its_score(tmp_path):
    made_ = made(tmp_path)
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -2.0]])
    found = experience(made_, rewards)
    total = SCORES - BETA * (found.columns["logprobs"] - found.columns["ref_logprobs"]).sum(1)
    expected = (total - total.view(2, 2).mean(1).repeat_interleave(2)).unsqueeze(1) * found.rollout.response_mask
    torch.testing.assert_close(found.columns["advantages"], expected)


def test_kl_in_the_loss_is_not_in_the_advantages_as_well(tmp_path):
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -2.0]])
    found = experience(made(tmp_path, place=KLPlace.loss), rewards)
    assert found.columns["advantages"].tolist() == [[-1, -1, -1], [1, 1, 0], [1, 1, 1], [-1, -1, -1]]


def test_dense_rewards_become_reward_to_go_over_the_groups_tokens(tmp_path):
    """Summed to one number, uniform credit would be sparse credit."""
    made_ = made(tmp_path, place=KLPlace.loss)
    made_.config.reward = RewardConfig(source=GoldConfig(), credit=UniformCredit())
    rewards = torch.tensor([[1.0, 1.0, 1.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, -1.0]])
    found = experience(made_, rewards).columns["advantages"]
    togo = torch.tensor([[3.0, 2.0, 1.0], [6.0, 3.0, 0.0], [0.0, 0.0, 0.0], [-2.0, -1.0, -1.0]])
    mask = tiny.rollout_of(tiny.prompts(2), ROWS, samples=2).response_mask
    means = torch.tensor([[3.0], [3.0], [-4 / 6], [-4 / 6]])
    torch.testing.assert_close(found, (togo - means) * mask)


def test_the_corrected_kl_is_weighed_by_each_tokens_own_ratio(tmp_path):
    """Also where the surrogate's ratio is the response's: it corrects for who sampled the token."""
    kl = GroupKLConfig(coef=BETA, place=KLPlace.loss, estimator=KLEstimator.k3_corrected)
    method = GRPOConfig(group_size=2, minibatch_size=4, ratio=RatioLevel.sequence, kl=kl)
    made_ = loop(tmp_path, method, batch_size=4)
    batch = experience(made_, torch.ones(4, 3)).rows(torch.arange(4), Size(4, 11))
    now = batch.columns["logprobs"] + 0.1 * torch.arange(12.0).view(4, 3)
    gap = batch.columns["ref_logprobs"] - now
    expected = (now - batch.columns["logprobs"]).exp() * (gap.exp() - 1 - gap) * batch.mask
    torch.testing.assert_close(made_.algorithm._kl(batch, now) * batch.mask, expected)


def test_a_groups_prompt_counts_once_in_its_micro_batches(tmp_path, monkeypatch):
    """A budget that holds both rows of a group only because their prompt is read once."""
    rollout = tiny.rollout_of(tiny.prompts(2), ROWS, samples=2)
    longest = int((rollout.prompt_mask.sum(1) + 2 * rollout.response_mask.sum(1).max()).max())

    def passes(shared_from: int) -> tuple[int, int]:
        """Of the log-probabilities and of an update."""
        read, learnt = [], []
        logprobs = Policy.response_logprobs
        made_ = made(tmp_path / str(shared_from), micro_batch_tokens=longest)
        one = made_.updates._backward
        made_.run.roles.policy.limits = Limits(shared_from=shared_from)
        with monkeypatch.context() as patch:
            patch.setattr(Policy, "response_logprobs", lambda *args: read.append(args) or logprobs(*args))
            patch.setattr(made_.updates, "_backward", lambda *args: learnt.append(args) or one(*args))
            logp = read_logprobs(made_.run.roles.policy, rollout, 1.0, longest)
            columns = {
                "logprobs": logp,
                "ref_logprobs": logp,
                "advantages": SCORES.unsqueeze(1) * rollout.response_mask,
            }
            made_.examples = Experience(rollout, columns)
            assert made_.advance()
        return len(read), len(learnt)

    assert passes(1) == (2, 2)
    assert passes(1000) == (4, 4)


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    """Between two rollouts, each of which one update uses up."""
    method = GRPOConfig(group_size=4, minibatch_size=8, learning_rate=1e-2, kl=GroupKLConfig(coef=BETA))

    def start(name: str) -> tuple[Loop, tiny.Recorder]:
        seen = tiny.Recorder()
        return loop(tmp_path / name, method, batch_size=8, callbacks=[seen]), seen

    (straight, expected), (again, found) = start("straight"), start("again")
    for _ in range(2):
        straight.advance()
    straight.save_checkpoint()
    again.resume(tmp_path / "straight" / "grpo_step_2")
    for made_ in (straight, again):
        for _ in range(2):
            made_.advance()
    assert [repeatable(r) for r in found.records] == [repeatable(r) for r in expected.records[2:]]
    assert [r["rollout"] for r in expected.records] == [0, 1, 2, 3]
    assert tiny.same(*(tiny.weights(made_.run.roles.policy) for made_ in (straight, again)))


def test_every_prompt_comes_once_in_a_pass(tmp_path):
    algorithm = made(tmp_path).algorithm  # two prompts a rollout
    rollouts = [algorithm.collect(Progress(rollout=k)).rollout for k in range(3)]
    served = [number for rollout in rollouts for number in rollout.prompt_index[::2].tolist()]
    assert sorted(served) == [prompt.id for prompt in tiny.prompts()]


# --- gradients, runs, options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LossLength)
@pytest.mark.parametrize("estimator", [KLEstimator.k2, KLEstimator.k3])
def test_splitting_into_micro_batches_changes_no_gradient(tmp_path, length, estimator):
    kl = GroupKLConfig(coef=BETA, place=KLPlace.loss, estimator=estimator)
    method = GRPOConfig(group_size=2, minibatch_size=4, loss_length=length, kl=kl)
    slopes = []
    for parts in ([[0, 1, 2, 3]], [[2], [0, 3], [1]]):
        made_ = loop(tmp_path, method, batch_size=4)
        rewards = torch.tensor([[1.0, 0, 2], [3, 0, 0], [0, 1, 0], [1, 1, 1]])
        backward(made_, parts, examples=experience(made_, rewards))
        slopes.append(gradients(made_.run.roles.policy.model))
    assert float((slopes[1] - slopes[0]).norm() / slopes[0].norm()) < 1e-5


def test_a_run_reports_what_the_table_of_metrics_promises_and_learns(tmp_path):
    method = GRPOConfig(group_size=8, minibatch_size=32, learning_rate=5e-3, kl=GroupKLConfig(coef=0.0))
    seen = tiny.Recorder()
    loop(tmp_path, method, steps=12, batch_size=32, callbacks=[seen]).train()
    assert [compare(record, "grpo") for record in seen.records] == [(set(), set())] * 12
    assert seen.column("policy/ratio_mean") == pytest.approx([1] * 12, abs=1e-5)
    scores = seen.column("reward/score_mean")
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
