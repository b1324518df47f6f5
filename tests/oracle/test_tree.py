"""The oracle is itself proven: two independent ways to every fixed point, and the closed form of the optimum."""

from __future__ import annotations

import pytest
import torch

from align.config import AttentionCredit, PrefixCredit, SparseCredit, UniformCredit
from tests.oracle.exact import gradient, grpo_loss, ppo_loss, solve
from tests.oracle.runs import APART, TREE, Tables, closed, reference
from tests.oracle.tree import at_rest, best, divergence, objective, pulled, tilted

BETAS = (0.4, 0.8)
TABLES = Tables(APART)
SCORES = TABLES.scores.double()
SPARSE = TABLES.credited(SparseCredit())


def test_all_responses_are_enumerated():
    assert len(TREE.responses) == 1 + 4 + 4 * 4 == len(set(TREE.responses))
    total = TREE.logprobs(reference()).exp().sum(1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_backward_induction_finds_the_closed_form_optimum(beta):
    """pi* ∝ pi_ref exp(r / beta), response by response."""
    ref = reference()
    star = at_rest(TREE, ref, SPARSE, beta)
    assert torch.allclose(TREE.logprobs(star), torch.log_softmax(TREE.logprobs(ref) + SCORES / beta, dim=1), atol=1e-9)
    assert float(objective(TREE, star, ref, SCORES, beta)) == pytest.approx(float(best(TREE, ref, SCORES, beta)))
    assert torch.allclose(at_rest(TREE, ref, TABLES.credited(PrefixCredit()), beta), star, atol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("credit", [SparseCredit(), PrefixCredit(), UniformCredit(), AttentionCredit()])
def test_the_gradient_of_ppos_losses_vanishes_where_backward_induction_says(credit, beta):
    """Found by descending align's own losses; sparse and prefix credit rest in pi*, the others do not."""
    ref, rewards = reference(), TABLES.credited(credit)
    own = solve(ref, ppo_loss(rewards, beta), rate=0.5 / beta)
    assert torch.allclose(own, at_rest(TREE, ref, rewards, beta), atol=1e-6)
    share = closed(own, TABLES.scores, beta)
    if credit.name in ("sparse", "prefix"):
        assert share == pytest.approx(1, abs=1e-6)
    else:
        assert 0.8 < share < 0.95


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("estimator", "rest"), [("k2", tilted), ("k3_corrected", tilted), ("k3", pulled)])
def test_the_gradient_of_grpos_loss_with_kl_vanishes_where_backward_induction_says(estimator, rest, beta):
    """k2 and corrected k3 leave out what a token does to the later tokens' KL; plain k3 pulls by KL(ref || pi)."""
    ref = reference()
    own = solve(ref, grpo_loss(SCORES, beta, estimator), rate=0.1)
    assert torch.allclose(own, at_rest(TREE, ref, SPARSE, beta, later_kl=False, rest=rest), atol=1e-6)
    low, high = (0.6, 0.86) if estimator == "k3" else (0.86, 0.95)
    assert low < closed(own, TABLES.scores, beta) < high


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("per_response", [False, True])
def test_grpo_with_kl_in_the_reward_rests_in_the_optimum_whatever_the_lengths_count(per_response, beta):
    ref = reference()
    own = solve(ref, grpo_loss(SCORES, beta, None, per_response=per_response), rate=0.1)
    assert closed(own, TABLES.scores, beta) == pytest.approx(1, abs=1e-6)


def test_dividing_by_the_std_keeps_the_optimum_with_kl_in_the_reward_and_moves_it_with_kl_in_the_loss():
    ref, beta = reference(), 0.4
    star = at_rest(TREE, ref, SPARSE, beta)
    slope = gradient(star, ref, grpo_loss(SCORES, beta, None, scale_std=True))
    assert float(slope.abs().max()) < 1e-8
    for estimator in ("k2", "k3"):
        slope = gradient(star, ref, grpo_loss(SCORES, beta, estimator, scale_std=True))
        assert float(slope.abs().max()) > 1e-2


def test_k2_with_std_can_end_far_below_the_start():
    """The smaller the deviation, the larger the scaled reward: it outgrows the penalty, and the policy collapses."""
    ref, beta = reference(), 0.8
    table = ref.clone()
    for _ in range(800):
        table = torch.log_softmax(table - 0.5 * gradient(table, ref, grpo_loss(SCORES, beta, "k2", scale_std=True)), -1)
    assert closed(table, TABLES.scores, beta) < -0.5
    assert float(divergence(TREE, table, ref)) > 2 * float(divergence(TREE, at_rest(TREE, ref, SPARSE, beta), ref))


def test_k1_in_the_loss_is_no_penalty_at_all():
    """Its expected gradient is 0: E[grad log pi] = 0."""
    ref = reference()
    away = at_rest(TREE, ref, SPARSE, 0.4)
    with_k1, without = (gradient(away, ref, grpo_loss(SCORES, beta, "k1")) for beta in (0.4, 0.0))
    assert torch.allclose(with_k1, without, atol=1e-9)
    assert float(without.abs().max()) > 1e-2
