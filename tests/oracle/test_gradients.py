"""One update's gradient against the exact one, and what the metrics report against enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from align.config import AttentionCredit, PrefixCredit, SparseCredit, UniformCredit
from align.config.methods import Baseline, KLEstimator, KLPlace
from align.metrics import Tally
from align.types import Size
from tests.oracle.exact import gradient, grpo_loss, ppo_loss
from tests.oracle.methods import grpo, ppo
from tests.oracle.runs import APART, LENGTH, TEXTS, TREE, Tables, loop, reference, table_of
from tests.oracle.tree import objective

BETA, SAMPLES = 0.8, 6_144
TABLES = Tables(APART)
SCORES = TABLES.scores.double()


def nudge(policy, size: float = 0.05) -> None:
    """Away from the reference: where the two agree, the KL's gradient is 0 and its sign shows nowhere."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in policy.trained_parameters().values():
            p.add_(size * torch.randn(p.shape, generator=generator))


def sampled_gradient(path, method, **settings):
    """The gradient (n,) that the loop forms of its first rollout, that rollout's tokens, and the policy."""
    made, _ = loop(path, method, TABLES, steps=1, batch=SAMPLES, **settings)
    policy = made.run.roles.policy
    nudge(policy)
    experience = made.algorithm.collect(made.progress)
    tokens = int(experience.response_tokens.sum())
    made.updates._backward(experience.rows(torch.arange(SAMPLES), Size(SAMPLES, tokens)), 0, Tally())
    slope = torch.cat([p.grad.flatten() for p in policy.trained_parameters().values()]).double()
    return slope, tokens, policy


def through(policy, value: torch.Tensor) -> torch.Tensor:
    """The gradient (n,) of `value` in the policy's weights."""
    parameters = list(policy.trained_parameters().values())
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]).double()


def agree(sampled: torch.Tensor, exact: torch.Tensor) -> None:
    """The same direction and, as nothing is rescaled on the way, the same length up to sampling noise."""
    assert float(torch.cosine_similarity(sampled, exact, dim=0)) > 0.99
    assert float(sampled.norm() / exact.norm()) == pytest.approx(1, abs=0.1)


PLAIN = {"lam": 1.0, "whiten_advantages": False, "minibatch_size": SAMPLES, "epochs": 1}


@pytest.mark.parametrize("credit", [SparseCredit(), PrefixCredit()])
def test_ppos_gradient_without_critic_is_the_policy_gradient_of_the_objective(tmp_path, credit):
    """lambda 1, a critic that says 0, no whitening, ratio 1: the gradient of -J, J = E[r] - beta KL."""
    sampled, tokens, policy = sampled_gradient(tmp_path, ppo(BETA, **PLAIN), credit=credit)
    exact = through(policy, -objective(TREE, table_of(policy), reference(), SCORES, BETA))
    agree(sampled * tokens / SAMPLES, exact)


@pytest.mark.parametrize("credit", [UniformCredit(), AttentionCredit()])
def test_ppos_gradient_under_credit_that_changes_the_optimum(tmp_path, credit):
    sampled, tokens, policy = sampled_gradient(tmp_path, ppo(BETA, **PLAIN), credit=credit)
    table = table_of(policy)
    slope = gradient(table.detach(), reference(), ppo_loss(TABLES.credited(credit), BETA)) / len(TEXTS)
    agree(sampled * tokens / SAMPLES, through(policy, (table * slope).sum()))


@pytest.mark.parametrize("estimator", [None, *KLEstimator])
def test_grpos_gradient_is_that_of_large_groups(tmp_path, estimator):
    """None: KL in the reward. The baseline leaves the response itself out, which makes small groups unbiased."""
    place = KLPlace.reward if estimator is None else KLPlace.loss
    settings = {"baseline": Baseline.leave_one_out, "minibatch_size": SAMPLES, "epochs": 1}
    method = grpo(BETA, place, estimator or KLEstimator.k3, **settings)
    sampled, _, policy = sampled_gradient(tmp_path, method)
    table = table_of(policy)
    loss = grpo_loss(SCORES, BETA, estimator.value if estimator else None)
    slope = gradient(table.detach(), reference(), loss) / len(TEXTS)
    agree(sampled * LENGTH, through(policy, (table * slope).sum()))
    if estimator is None:
        exact = through(policy, -objective(TREE, table_of(policy), reference(), SCORES, BETA))
        agree(sampled * LENGTH, exact)


def test_reported_kl_and_reward_lie_within_3_standard_errors_of_the_enumerated_ones(tmp_path):
    made, _ = loop(tmp_path, ppo(BETA, minibatch_size=SAMPLES), TABLES, steps=1, batch=SAMPLES)
    nudge(made.run.roles.policy)
    reported = made.algorithm.collect(made.progress).metrics
    table, ref = table_of(made.run.roles.policy).detach(), reference()
    probability = TREE.logprobs(table).exp() / len(TEXTS)
    ratio = TREE.token_logprobs(ref) - TREE.token_logprobs(table)
    of_response = {
        "kl/per_response_k1": -ratio.sum(-1),
        "kl/per_response_k3": (ratio.exp() - 1 - ratio).sum(-1),
        "reward/score_mean": SCORES,
        "reward/total_mean": SCORES + BETA * ratio.sum(-1),
        "response/length_mean": TREE.lengths.double().expand_as(SCORES),
        "response/eos_rate": TREE.ended.double().expand_as(SCORES),
    }
    for name, value in of_response.items():
        mean = float((probability * value).sum())
        error = math.sqrt(float((probability * (value - mean) ** 2).sum()) / SAMPLES)
        assert abs(reported[name] - mean) < 3 * error, name
        assert error < 0.02, name
    k1, k3 = (float((probability * of_response[f"kl/per_response_{k}"]).sum()) for k in ("k1", "k3"))
    assert k1 == pytest.approx(k3, rel=1e-9) and k1 > 0.1  # both are the KL
    for name in ("k1", "k3"):
        per_token = reported[f"kl/per_response_{name}"] / reported["response/length_mean"]
        assert reported[f"kl/per_token_{name}"] == pytest.approx(per_token, rel=1e-5)
