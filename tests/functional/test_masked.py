"""Sums, means, whitening and explained variance over a mask, by hand."""

import pytest
import torch

from align.functional.masked import explained_variance, masked_mean, masked_sum, masked_var, whiten

X = torch.tensor([[1.0, 2.0, 9.0], [3.0, 6.0, 4.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 0]])  # counts 1, 2, 3, 6: mean 3, variance 3.5
JUNK = [float("nan"), float("inf"), -float("inf"), 1e30]


def test_sum_mean_and_variance_by_hand():
    assert masked_sum(X, MASK) == 12
    assert masked_sum(X, MASK, dim=1).tolist() == [3, 9]
    assert masked_mean(X, MASK) == 3
    assert masked_mean(X, MASK, dim=1).tolist() == [1.5, 4.5]
    assert masked_var(X, MASK) == 3.5


def test_nothing_that_counts_gives_zero():
    nothing = torch.zeros(2, 3)
    assert masked_sum(X, nothing) == masked_mean(X, nothing) == masked_var(X, nothing) == 0
    assert masked_mean(X, nothing, dim=1).tolist() == [0, 0]
    assert whiten(X, nothing).tolist() == [[0] * 3] * 2


def test_advantages_are_whitened_with_shift():
    """'Whiten ... advantages with shifting, masked.'"""
    expected = torch.tensor([[-2.0, -1.0, 0.0], [0.0, 3.0, 0.0]]) / 3.5**0.5
    torch.testing.assert_close(whiten(X, MASK), expected)


def test_rewards_are_whitened_without_shift():
    """'Whiten rewards without shifting the mean': the flag that one public library has inverted."""
    expected = torch.tensor([[-2.0, -1.0, 0.0], [0.0, 3.0, 0.0]]) / 3.5**0.5 + 3 * MASK
    torch.testing.assert_close(whiten(X, MASK, shift_mean=False), expected)
    assert masked_mean(whiten(X, MASK, shift_mean=False), MASK).item() == pytest.approx(3)


def test_a_constant_reward_stays_and_a_constant_advantage_vanishes():
    constant = torch.full((2, 3), 5.0)
    torch.testing.assert_close(whiten(constant, MASK, shift_mean=False), 5.0 * MASK)
    assert whiten(constant, MASK).abs().max() == 0


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("shift", [True, False])
def test_padding_changes_nothing_not_even_gradients(junk, shift):
    def values_and_gradient(filler):
        x = torch.where(MASK == 1, X, torch.tensor(filler)).requires_grad_()
        total = masked_sum(x, MASK) + masked_mean(x, MASK) + masked_var(x, MASK) + whiten(x, MASK)[0, 0]
        total.backward()
        return total.detach(), x.grad, whiten(x.detach(), MASK, shift_mean=shift)

    for a, b in zip(values_and_gradient(0.0), values_and_gradient(junk), strict=True):
        assert torch.equal(a, b)


def test_explained_variance():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, float("nan")]]), torch.tensor([[1, 1, 1, 0]])
    values = {"perfect": returns, "offset": returns + 5, "half": returns / 2, "against": 4 - returns}
    found = {k: explained_variance(v, returns, mask) for k, v in values.items()}
    assert found == pytest.approx({"perfect": 1.0, "offset": 1.0, "half": 0.75, "against": -3.0})
    assert explained_variance(torch.zeros(1, 4), returns, mask) == pytest.approx(0)
    assert explained_variance(returns, torch.ones(1, 4), mask) == 0  # nothing to explain
