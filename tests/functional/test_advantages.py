"""KL-shaped rewards and GAE: numbers by hand, a plain recursion, and what padding must not do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.functional.advantages import explained_variance, gae, penalise_kl
from tests.functional.plain import plain_gae

NAN = float("nan")


def test_kl_penalty_lowers_the_reward_where_the_policy_likes_a_token_more_than_the_reference():
    """'KL penalty per token, -beta * (logp - ref_logp)'."""
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, NAN]])
    logp = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, NAN]])
    ref = torch.tensor([[-2.0, -1.5, -0.5], [-4.0, -0.5, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = torch.tensor([[-0.1, 0.05, 1.0], [-0.3, 2.05, 0.0]])
    torch.testing.assert_close(penalise_kl(rewards, logp, ref, mask, 0.1), expected)


def test_gae_by_hand():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0, 7.0]]), torch.tensor([[0.5, 1.0, 1.5, 7.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    # deltas 1.4, 2.35, 1.5; A_3 = 1.5, A_2 = 2.35 + .72 * 1.5, A_1 = 1.4 + .72 * 3.43
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    torch.testing.assert_close(advantages, torch.tensor([[3.8696, 3.43, 1.5, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[4.3696, 4.43, 3.0, 0.0]]))


def test_lambda_1_gives_reward_to_go_and_lambda_0_one_step():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, -1.0, 1.5]])
    mask = torch.ones(1, 3)
    assert gae(rewards, values, mask, gamma=1.0, lam=1.0)[1].tolist() == [[6, 5, 3]]
    assert gae(rewards, values, mask, gamma=1.0, lam=0.0)[1].tolist() == [[0, 3.5, 3]]


def test_no_bootstrapping_past_the_last_token():
    """'GAE over response tokens only; no bootstrapping past EOS': values beyond it would leak through lambda."""
    mask = torch.tensor([[1, 1, 0, 0]])
    advantages, returns = gae(torch.ones(1, 4), torch.full((1, 4), 100.0), mask, gamma=1.0, lam=0.95)
    assert advantages[0, 1] == 1 - 100
    torch.testing.assert_close(returns[0, :2], torch.tensor([1 + 100 - 0.95 * 99, 1.0]))


lengths = st.lists(st.integers(0, 6), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(lengths=lengths, gamma=st.floats(0, 1), lam=st.floats(0, 1), seed=st.integers(0, 999))
def test_gae_is_the_per_row_recursion_whatever_stands_at_padding(lengths, gamma, lam, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 7)
    rewards, values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = (torch.arange(7) < torch.tensor(lengths).unsqueeze(1)).long()
    rewards[mask == 0], values[mask == 0] = NAN, float("inf")
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for i, n in enumerate(lengths):
        expected = plain_gae(rewards[i, :n].tolist(), values[i, :n].tolist(), gamma, lam)
        assert advantages[i].tolist() == pytest.approx(expected + [0] * (7 - n), abs=1e-9)
        assert returns[i, :n].tolist() == pytest.approx((advantages + values)[i, :n].tolist())
        assert returns[i, n:].abs().sum() == 0


def test_explained_variance():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, NAN]]), torch.tensor([[1, 1, 1, 0]])
    values = {"perfect": returns, "offset": returns + 5, "half": returns / 2, "against": 4 - returns}
    found = {k: explained_variance(v, returns, mask) for k, v in values.items()}
    assert found == pytest.approx({"perfect": 1.0, "offset": 1.0, "half": 0.75, "against": -3.0})
    assert explained_variance(torch.zeros(1, 4), returns, mask) == pytest.approx(0)
    assert explained_variance(returns, torch.ones(1, 4), mask) == 0  # nothing to explain
