"""Preference losses at hand-computed margins: value, slope and where the slope changes sign."""

from __future__ import annotations

import math

import pytest
import torch

from align.functional.preference import hinge_loss, ipo_loss, preference_margin, robust_loss, sigmoid_loss

BETA = 0.5


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def value_and_slope(loss, margin: float) -> tuple[float, float]:
    at = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
    found = loss(at)
    found.sum().backward()
    return float(found.detach()), float(at.grad)


def test_margin_counts_the_chosen_up_and_the_reference_off():
    chosen, rejected, ref_chosen, ref_rejected = (torch.tensor([v]) for v in (-2.0, -5.0, -3.0, -4.0))
    assert preference_margin(chosen, rejected, ref_chosen, ref_rejected).item() == 2  # (-2 + 3) - (-5 + 4)
    assert preference_margin(chosen, rejected, None, None).item() == 3


@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_sigmoid_with_smoothing_is_a_mixture_of_both_labels(margin, smoothing):
    h = BETA * margin
    value, slope = value_and_slope(lambda m: sigmoid_loss(m, BETA, label_smoothing=smoothing), margin)
    expected = -(1 - smoothing) * math.log(sigmoid(h)) - smoothing * math.log(sigmoid(-h))
    assert value == pytest.approx(expected, rel=1e-12)
    assert slope == pytest.approx(BETA * (sigmoid(h) - (1 - smoothing)), rel=1e-9)


def test_sigmoid_with_a_target_starts_from_the_target():
    value, slope = value_and_slope(lambda m: sigmoid_loss(m, BETA, target=1.5), 3.0)  # h = 0
    assert value == pytest.approx(math.log(2)) and slope == pytest.approx(-BETA / 2)


@pytest.mark.parametrize("margin", [-2.0, 0.5, 4.0])
def test_robust_undoes_flipped_labels_in_expectation(margin):
    """(1 - e) loss(m) + e loss(-m) is DPO's own loss."""
    e = 0.2
    seen = sum(p * value_and_slope(lambda m: robust_loss(m, BETA, label_smoothing=e), s * margin)[0]
               for p, s in ((1 - e, 1), (e, -1)))  # fmt: skip
    assert seen == pytest.approx(value_and_slope(lambda m: sigmoid_loss(m, BETA), margin)[0], rel=1e-12)


@pytest.mark.parametrize(("margin", "value", "slope"), [(0.0, 1.0, -2.0), (1.0, 0.0, 0.0), (3.0, 4.0, 4.0)])
def test_ipo_aims_at_a_margin_of_1_over_2_beta(margin, value, slope):
    assert value_and_slope(lambda m: ipo_loss(m, BETA), margin) == pytest.approx((value, slope))


@pytest.mark.parametrize(("margin", "value", "slope"), [(-1.0, 1.5, -0.5), (1.0, 0.5, -0.5), (2.5, 0.0, 0.0)])
def test_hinge_is_content_past_1_over_beta(margin, value, slope):
    assert value_and_slope(lambda m: hinge_loss(m, BETA), margin) == pytest.approx((value, slope))
