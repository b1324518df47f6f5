"""Means and Student intervals against figures worked out by hand and the printed t table."""

import pytest

from align.numbers import Interval, mean_interval, student_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (30, 2.0423)],
)
def test_quantiles_are_those_of_the_t_table(degrees, quantile):
    assert student_quantile(0.95, degrees) == pytest.approx(quantile, abs=5e-5)


def test_other_confidence():
    assert student_quantile(0.99, 4) == pytest.approx(4.6041, abs=5e-5)
    assert student_quantile(0.5, 1) == pytest.approx(1.0)  # the Cauchy distribution's quartile


def test_interval_by_hand():
    # 1, 2, 6: mean 3, squared deviations 4 + 1 + 9 over 2 = 7; t(2) sqrt(7 / 3) = 4.3027 * 1.5275
    found = mean_interval([1.0, 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert found.half == pytest.approx(6.5724, abs=2e-4)


def test_one_value_has_no_interval_and_equal_ones_an_empty_one():
    assert mean_interval([2.5]) == Interval(2.5, None, 1)
    assert mean_interval([2.5, 2.5]) == Interval(2.5, 0.0, 2)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_values_that_differ_by_rounding_alone_have_no_spread():
    assert mean_interval([0.1 + 0.2, 0.3, 0.3]).half == 0
    assert mean_interval([0.3, 0.3 + 1e-9]).half > 0
