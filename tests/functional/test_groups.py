"""Advantages within groups by hand-computed numbers, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch

from align.functional.groups import (
    STD_EPS,
    group_advantages,
    group_centred,
    reward_to_go,
    sequence_log_ratio,
    token_weights,
    zero_std_fraction,
)

NAN = float("nan")
SCORES = torch.tensor([1.0, 3.0, 5.0, 2.0, 2.0, 8.0])  # two groups of 3: means 3 and 4, sample deviations 2 and sqrt 12
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scale_std": False}, [-2, 0, 2, -2, -2, 4]),
        ({"scale_std": False, "leave_one_out": True}, [-3, 0, 3, -3, -3, 6]),  # 1 - (3 + 5) / 2
        ({"scale_std": True}, [v / (2 + STD_EPS) for v in (-2, 0, 2)] + [v / (12**0.5 + STD_EPS) for v in (-2, -2, 4)]),
    ],
)
def test_group_advantages(options, expected):
    torch.testing.assert_close(group_advantages(SCORES, 3, **options), torch.tensor(expected, dtype=torch.float32))


def test_groups_do_not_see_each_other():
    moved = SCORES + torch.tensor([0, 0, 0, 100.0, 100.0, 100.0])
    for scale in (False, True):
        torch.testing.assert_close(
            group_advantages(moved, 3, scale_std=scale), group_advantages(SCORES, 3, scale_std=scale), atol=1e-5, rtol=0
        )


def test_a_group_with_one_score_for_all_teaches_nothing():
    scores = torch.tensor([0.7, 0.7, 0.1, 0.2])
    assert group_advantages(scores, 2, scale_std=True)[:2].tolist() == [0, 0]
    assert zero_std_fraction(scores, 2) == 0.5


def test_a_response_that_does_not_count_is_in_no_baseline():
    """As if the first group were 1, 5 and the second 8 alone."""
    counted = torch.tensor([True, False, True, False, False, True])
    scores = SCORES.where(counted, 1e9)
    one = math.sqrt(8) + STD_EPS
    for options, expected in (
        ({"scale_std": False}, [-2, 0, 2, 0, 0, 0]),
        ({"scale_std": False, "leave_one_out": True}, [-4, 0, 4, 0, 0, 0]),
        ({"scale_std": True}, [-2 / one, 0, 2 / one, 0, 0, 0]),
    ):
        found = group_advantages(scores, 3, **options, counted=counted)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    assert zero_std_fraction(scores, 3, counted) == 0.5
    every = torch.ones(6, dtype=torch.bool)
    same = group_advantages(SCORES, 3, scale_std=True, leave_one_out=True)
    torch.testing.assert_close(group_advantages(SCORES, 3, scale_std=True, leave_one_out=True, counted=every), same)


def test_reward_to_go():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, NAN, NAN], [1.0, 1.0, 9.0], [0.0, 0.0, -1.0]])
    expected = [[7.0, 6.0, 4.0], [3.0, 0.0, 0.0], [2.0, 1.0, 0.0], [-1.0, -1.0, -1.0]]
    assert reward_to_go(rewards, MASK).tolist() == expected


def test_group_centred_takes_the_mean_over_the_groups_tokens():
    values = torch.tensor([[7.0, 6.0, 4.0], [3.0, NAN, NAN], [2.0, 1.0, NAN], [-1.0, -1.0, -1.0]])
    # 4 tokens of mean 5 and sample variance 10 / 3; 5 tokens of mean 0 and sample variance 8 / 4
    expected = torch.tensor([[2.0, 1.0, -1.0], [-2.0, 0.0, 0.0], [2.0, 1.0, 0.0], [-1.0, -1.0, -1.0]])
    torch.testing.assert_close(group_centred(values, MASK, 2, scale_std=False), expected)
    std = torch.tensor([[(10 / 3) ** 0.5]] * 2 + [[2**0.5]] * 2)
    torch.testing.assert_close(group_centred(values, MASK, 2, scale_std=True), expected / (std + STD_EPS))


def test_sequence_log_ratio_is_the_mean_over_the_response():
    ratio = torch.tensor([[0.3, 0.6, 0.0], [0.5, NAN, NAN], [0.1, -0.3, NAN], [1.0, 1.0, 4.0]])
    expected = torch.tensor([[0.3, 0.3, 0.3], [0.5, 0.0, 0.0], [-0.1, -0.1, 0.0], [2.0, 2.0, 2.0]])
    torch.testing.assert_close(sequence_log_ratio(ratio, MASK), expected)


@pytest.mark.parametrize(
    ("per_response", "constant", "rows"),
    [
        (True, None, [1 / 12, 1 / 4, 1 / 8, 1 / 12]),  # 1 / (length * 4 responses)
        (False, None, [1 / 9] * 4),
        (False, 5.0, [1 / 20] * 4),
    ],
)
def test_token_weights(per_response, constant, rows):
    weights = token_weights(MASK, per_response=per_response, constant=constant, tokens=9, responses=4)
    torch.testing.assert_close(weights, torch.tensor(rows).unsqueeze(1) * MASK)
    if constant is None:
        assert math.isclose(float(weights.sum()), 1, rel_tol=1e-6)
