"""Credit schemes: where the score lands, that it is all there, and that neighbours and padding have no say."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.functional import credit

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
TOTAL = torch.tensor([6.0, -2.0, 1.0, 5.0])
NAN = float("nan")


def test_last_token():
    """'Score is read at the last response token and paid there; unit-test the index.'"""
    assert credit.last_token(MASK).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_sparse():
    assert credit.sparse(TOTAL, MASK).tolist() == [[0, 0, 6, 0], [-2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_uniform():
    assert credit.uniform(TOTAL, MASK).tolist() == [[2, 2, 2, 0], [-2, 0, 0, 0], [0.25] * 4, [0, 0, 0, 0]]


def test_prefix():
    scores = torch.tensor([[1.0, 1.5, 0.5, 3.0, NAN], [2.0, 5.0, NAN, NAN, NAN], [0.0, 1, 1, 0, 4], [NAN] * 5])
    expected = [[0.5, -1, 2.5, 0], [3, 0, 0, 0], [1, 0, -1, 4], [0, 0, 0, 0]]
    assert credit.prefix(scores, MASK).tolist() == expected


def test_attention():
    """ABC: b * a_t * R + (1 - b) * 1[t = T] * R, a renormalised to 1 over the response."""
    weights = torch.tensor([[0.1, 0.2, 0.1, NAN], [0.3, NAN, 7, 7], [0.0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]])
    given = credit.attention(TOTAL, weights, MASK, 0.8)
    expected = [[1.2, 2.4, 1.2 + 1.2, 0], [-2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    torch.testing.assert_close(given, torch.tensor(expected))
    assert credit.attention(TOTAL, weights, MASK, 0.0).tolist() == credit.sparse(TOTAL, MASK).tolist()


def schemes(
    generator: torch.Generator, shape: tuple[int, int]
) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Every scheme as (rows, total, mask) -> token rewards, on fixed random signals."""
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    scores = torch.randn((shape[0], shape[1] + 1), generator=generator, dtype=torch.float64)

    def prefix(rows: Tensor, total: Tensor, mask: Tensor) -> Tensor:
        ends = scores[rows].scatter(1, mask.sum(1, keepdim=True), (total + scores[rows, 0]).unsqueeze(1))
        return credit.prefix(ends, mask)  # the score of the whole response, less the empty one's, is the total

    return {
        "sparse": lambda rows, total, mask: credit.sparse(total, mask),
        "uniform": lambda rows, total, mask: credit.uniform(total, mask),
        "prefix": prefix,
        "attention": lambda rows, total, mask: credit.attention(total, weights[rows, : mask.shape[1]], mask, 0.7),
    }


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4), seed=st.integers(0, 999))
def test_every_scheme_pays_the_total_on_the_mask_and_each_row_by_itself(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    n, width = len(lengths), 7
    total = torch.randn(n, generator=generator, dtype=torch.float64)
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    everyone, backwards = torch.arange(n), torch.arange(n).flip(0)
    for name, scheme in schemes(generator, (n, width)).items():
        rewards = scheme(everyone, total, mask)
        torch.testing.assert_close(rewards.sum(1), total, msg=name)
        assert rewards[mask == 0].abs().sum() == 0, name
        torch.testing.assert_close(scheme(backwards, total.flip(0), mask.flip(0)), rewards.flip(0), msg=name)


@pytest.mark.parametrize("name", ["sparse", "uniform", "attention"])
def test_more_padding_changes_nothing(name):
    scheme = schemes(torch.Generator().manual_seed(0), (4, 6))[name]
    wide = torch.nn.functional.pad(MASK, (0, 2))
    assert torch.equal(scheme(torch.arange(4), TOTAL, wide)[:, :4], scheme(torch.arange(4), TOTAL, MASK))


def test_missing_end_is_paid_the_penalty_instead_of_the_score():
    """'missing_eos_penalty *instead of* its score, replacing all of its token rewards and paid at T'."""
    rewards = credit.uniform(TOTAL, MASK)
    ended = torch.tensor([True, False, False, True])
    replaced = credit.replace_unended(rewards, MASK, ended, -1.5)
    assert replaced.tolist() == [[2, 2, 2, 0], [-1.5, 0, 0, 0], [0, 0, 0, -1.5], [0, 0, 0, 0]]
    assert credit.replace_unended(rewards, MASK, ended, None) is rewards


def test_a_non_finite_score_of_a_cut_response_does_not_survive_the_penalty():
    rewards = torch.tensor([[NAN, float("inf")]])
    assert credit.replace_unended(rewards, torch.ones(1, 2), torch.tensor([False]), -1.0).tolist() == [[0, -1]]
