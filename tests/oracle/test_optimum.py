"""The real methods, from sampling to optimizer, against the exact optimum pi* ∝ pi_ref exp(r / beta)."""

from __future__ import annotations

import pytest

from align.config import PrefixCredit, SparseCredit
from align.config.methods import KLPlace
from tests.oracle.methods import BATCH, STEPS, bradley_terry, dpo, grpo, ppo
from tests.oracle.runs import Tables, closed, trained

BETAS = (0.4, 0.8)
TABLES = Tables()
ENOUGH = 0.95  # of J(pi*) - J(ref)


@pytest.mark.slow
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("credit", [SparseCredit(), PrefixCredit()])
def test_ppo_reaches_the_optimum(tmp_path, credit, beta):
    table = trained(tmp_path, ppo(beta), TABLES, steps=STEPS, batch=BATCH, credit=credit)
    assert closed(table, TABLES.scores, beta) > ENOUGH


@pytest.mark.parametrize("beta", BETAS)
def test_grpo_with_kl_in_the_reward_reaches_the_optimum(tmp_path, beta):
    table = trained(tmp_path, grpo(beta, KLPlace.reward), TABLES, steps=STEPS, batch=BATCH)
    assert closed(table, TABLES.scores, beta) > ENOUGH


@pytest.mark.slow
@pytest.mark.parametrize("beta", BETAS)
def test_dpo_reaches_the_optimum_from_bradley_terry_pairs(tmp_path, beta):
    """It never sees a score: only which of two responses won."""
    table = trained(tmp_path, dpo(beta), TABLES, steps=200, pairs=bradley_terry(TABLES, 12_000))
    assert closed(table, TABLES.scores, beta) > ENOUGH
