"""Options that change the optimum: the real methods end where exact gradients say, and not in pi*."""

from __future__ import annotations

import pytest

from align.config import AttentionCredit, SparseCredit, UniformCredit
from align.config.methods import KLEstimator, KLPlace
from tests.oracle.exact import grpo_loss, solve
from tests.oracle.methods import BATCH, STEPS, grpo, ppo
from tests.oracle.runs import APART, TREE, Tables, reference, trained
from tests.oracle.tree import at_rest, divergence, pulled, tilted

BETA = 0.4
TABLES = Tables(APART)
STAR = at_rest(TREE, reference(), TABLES.credited(SparseCredit()), BETA)


def assert_at_own(table, own) -> None:
    """In nats per response the policy is three times nearer to its own fixed point than either is to pi*."""
    to_own, to_star, apart = (float(divergence(TREE, a, b)) for a, b in ((table, own), (table, STAR), (own, STAR)))
    assert to_own < min(to_star, apart) / 3


@pytest.mark.slow
@pytest.mark.parametrize("credit", [UniformCredit(), AttentionCredit()])
def test_ppo_with_credit_that_depends_on_the_whole_response(tmp_path, credit):
    own = at_rest(TREE, reference(), TABLES.credited(credit), BETA)
    table = trained(tmp_path, ppo(BETA, lam=1.0), TABLES, steps=STEPS, batch=BATCH, credit=credit)
    assert_at_own(table, own)


@pytest.mark.parametrize(
    ("estimator", "rest"), [(KLEstimator.k2, tilted), (KLEstimator.k3_corrected, tilted), (KLEstimator.k3, pulled)]
)
def test_grpo_with_kl_in_the_loss(tmp_path, estimator, rest):
    rewards = TABLES.credited(SparseCredit())
    own = at_rest(TREE, reference(), rewards, BETA, later_kl=False, rest=rest)
    table = trained(tmp_path, grpo(BETA, KLPlace.loss, estimator), TABLES, steps=STEPS, batch=BATCH)
    assert_at_own(table, own)


def test_grpo_as_published_with_std_and_k3_in_the_loss(tmp_path):
    own = solve(reference(), grpo_loss(TABLES.scores.double(), BETA, "k3", scale_std=True), rate=0.1)
    table = trained(tmp_path, grpo(BETA, KLPlace.loss, scale_std=True), TABLES, steps=STEPS, batch=BATCH)
    assert_at_own(table, own)
