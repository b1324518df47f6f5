"""Credit fidelity: which token counts to which segment, and a correlation that no response's level can move."""

import pytest
import torch

from align.functional.fidelity import segment_rewards, within_correlation

# "ab. cd" in tokens "ab", ".", " c", "d", end; a segment for each word, and the end's.
OFFSETS = torch.tensor([[0, 2], [2, 3], [3, 5], [5, 6], [6, 6]])
SEGMENTS = [(0, 3, 0.5), (4, 6, -0.25), (6, 6, -1.0)]


def test_tokens_count_to_the_segment_that_is_not_over():
    rewards, truth = segment_rewards(torch.tensor([1.0, 10, 100, 1000, 10000]), SEGMENTS, OFFSETS)
    assert rewards.tolist() == [11, 1100, 10000]  # the blank before "cd" counts to it
    assert truth.tolist() == [0.5, -0.25, -1.0]


def test_the_end_is_a_segment_though_nothing_is_charged_there():
    rewards, truth = segment_rewards(torch.tensor([1.0, 10, 100, 1000, 10000]), SEGMENTS[:2], OFFSETS)
    assert rewards.tolist() == [11, 1100, 10000]
    assert truth.tolist() == [0.5, -0.25, 0.0]


def test_a_token_across_a_border_counts_to_the_earlier_segment():
    offsets = torch.tensor([[0, 2], [2, 5], [5, 6], [6, 6]])
    rewards, _ = segment_rewards(torch.tensor([1.0, 10, 100, 1000]), [(0, 4, 1.0), (4, 6, 2.0)], offsets)
    assert rewards.tolist() == [11, 100, 1000]


def test_an_empty_response_has_its_end_alone():
    rewards, truth = segment_rewards(torch.tensor([3.0]), [(0, 0, -0.25)], torch.tensor([[0, 0]]))
    assert (rewards.tolist(), truth.tolist()) == ([3], [-0.25])


def test_correlation_within_groups_by_hand():
    """Centred per group: (-1, 1), (-1, 0, 1) against (-2, 2), (1, 0, -1); pooled 2*1*2 - 2 over sqrt(4 * 10)."""
    groups = [torch.tensor([[3.0, 5], [10, 14]]), torch.tensor([[0.0, 1, 2], [-4, -5, -6]])]
    assert within_correlation(groups) == pytest.approx((4 - 2) / (4 * 10) ** 0.5)
    shifted = [group + torch.tensor([[7.0], [-30.0]]) * i for i, group in enumerate(groups)]
    assert within_correlation(shifted) == pytest.approx((4 - 2) / (4 * 10) ** 0.5)
    assert within_correlation([torch.stack([g[1], g[1]]) for g in groups]) == pytest.approx(1)
    assert within_correlation([torch.stack([g[1], -g[1]]) for g in groups]) == pytest.approx(-1)


@pytest.mark.parametrize(
    "groups",
    [[], [torch.tensor([[1.0], [2.0]])], [torch.tensor([[1.0, 2], [5, 5]])], [torch.tensor([[0.0, 0], [1, 2]])]],
)
def test_what_does_not_vary_has_no_correlation(groups):
    assert within_correlation(groups) is None
