"""Credit schemes: where the score lands, that it is all there, and that neighbours and padding have no say."""

from collections.abc import Callable

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


def test_prefix_by_steps():
    """A step is paid its rise of the score at its end; the last token ends one whatever `steps` says."""
    scores = torch.tensor([[1.0, 9, 4, 6, NAN], [2.0, 5, NAN, NAN, NAN], [0.0, 9, 3, 9, 4], [NAN] * 5])
    steps = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]])
    expected = [[0, 3, 2, 0], [3, 0, 0, 0], [0, 3, 0, 1], [0, 0, 0, 0]]
    assert credit.prefix(scores, MASK, steps).tolist() == expected
    assert torch.equal(credit.prefix(scores, MASK, torch.ones_like(MASK)), credit.prefix(scores, MASK))
    ends_only = credit.prefix(scores, MASK, torch.zeros_like(MASK))
    assert ends_only.tolist() == [[0, 0, 5, 0], [3, 0, 0, 0], [0, 0, 0, 4], [0, 0, 0, 0]]


def test_every_k():
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0]])
    assert credit.every_k(mask, 3).tolist() == [[0, 0, 1, 0, 0, 1, 0], [0] * 7]
    assert torch.equal(credit.every_k(mask, 1), mask)


def test_implicit():
    """RTO: clip(b1 * log-ratio, +-c) at every token, R at the last; the log-ratio's sign is the reward's."""
    ratio = torch.tensor([[1.0, -3, 0.5, NAN], [2.0, NAN, NAN, NAN], [0.0, -1, 1, -9], [NAN] * 4])
    expected = [[0.1, -0.2, 6.05, 0], [-1.8, 0, 0, 0], [0, -0.1, 0.1, 0.8], [0, 0, 0, 0]]
    torch.testing.assert_close(credit.implicit(TOTAL, ratio, MASK, 0.1, 0.2), torch.tensor(expected))


def test_spans():
    """Fine-grained RLHF: 'score of segment j at its last token'; tokens of several characters, of none, and padding."""
    offsets = torch.tensor([[[0, 3], [3, 3], [3, 4], [4, 9], [9, 9], [0, 0]], [[0, 2], *[[0, 0]] * 5], [[0, 0]] * 6])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0], [0] * 6])
    segments = [
        [(9, 9, 10000.0), (0, 2, 1.0), (2, 4, 10.0), (4, 5, 100.0), (5, 9, 1000.0)],
        [(0, 1, 0.5), (40, 50, 0.25)],  # past the end: at the last token
        [(0, 0, 7.0)],  # nothing to pay it on
    ]
    expected = [[1, 0, 10, 1100, 10000, 0], [0.75, 0, 0, 0, 0, 0], [0] * 6]
    assert credit.spans(segments, offsets, mask).tolist() == expected
    assert credit.own(torch.tensor([[1.0, NAN]]), torch.tensor([[1, 0]])).tolist() == [[1, 0]]


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
    """Every scheme as (rows, total, mask) -> token rewards, on fixed random signals; masked positions hold NaN."""
    n, width = shape
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    scores = torch.randn((n, width + 1), generator=generator, dtype=torch.float64)
    ends = torch.randint(0, 2, shape, generator=generator)
    offsets = torch.stack([torch.arange(width) * 2, torch.arange(width) * 2 + 2], dim=1)  # two characters a token
    cuts = torch.rand(n, generator=generator, dtype=torch.float64)

    def masked(signal: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(signal[rows], (0, max(0, mask.shape[1] - width)))
        return wide[:, : mask.shape[1]].masked_fill(mask == 0, NAN)

    def prefix(steps: Callable[[Tensor, Tensor], Tensor | None]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def scheme(rows: Tensor, total: Tensor, mask: Tensor) -> Tensor:
            first = scores[rows, :1]
            told = torch.cat([first, masked(scores[:, 1:], rows, mask)], dim=1)
            # the score of the whole response, less the empty one's, is the total
            told = told.scatter(1, mask.sum(1, keepdim=True), total.unsqueeze(1) + first)
            return credit.prefix(told, mask, steps(rows, mask))

        return scheme

    def spans(rows: Tensor, total: Tensor, mask: Tensor) -> Tensor:
        parts = [
            [(0, int(cut * 2 * int(m.sum())), float(cut * t)), (2 * width, 2 * width, float((1 - cut) * t))]
            for cut, t, m in zip(cuts[rows], total, mask, strict=True)
        ]
        places = torch.nn.functional.pad(offsets, (0, 0, 0, max(0, mask.shape[1] - width)))[: mask.shape[1]]
        return credit.spans(parts, places * mask.unsqueeze(-1), mask).double()

    return {
        "sparse": lambda rows, total, mask: credit.sparse(total, mask),
        "uniform": lambda rows, total, mask: credit.uniform(total, mask),
        "prefix": prefix(lambda rows, mask: None),
        "prefix, steps of 2": prefix(lambda rows, mask: credit.every_k(mask, 2)),
        "prefix, sentences": prefix(lambda rows, mask: masked(ends.double(), rows, mask)),
        "attention": lambda rows, total, mask: credit.attention(total, masked(weights, rows, mask), mask, 0.7),
        "implicit": lambda rows, total, mask: credit.implicit(total, masked(weights - 0.5, rows, mask), mask, 1.0, 0.3),
        "spans": spans,
        "own": lambda rows, total, mask: credit.own(masked(weights, rows, mask), mask),
    }


FREE = ("implicit", "own")  # sums that are not the score's: what the DPO policy and the source say


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
        if name not in FREE:
            torch.testing.assert_close(rewards.sum(1), total, msg=name, rtol=1e-6, atol=1e-6)
        assert rewards[mask == 0].abs().sum() == 0, name
        torch.testing.assert_close(scheme(backwards, total.flip(0), mask.flip(0)), rewards.flip(0), msg=name)
        wide = torch.nn.functional.pad(mask, (0, 2))
        padded = scheme(everyone, total, wide)[:, :width]  # sums over another width may round otherwise
        torch.testing.assert_close(padded, rewards, msg=name, rtol=1e-12, atol=1e-12)


def test_missing_end_is_paid_the_penalty_instead_of_the_score():
    """'truncated_score *instead of* its score, replacing all of its token rewards and paid at T'."""
    rewards = credit.uniform(TOTAL, MASK)
    ended = torch.tensor([True, False, False, True])
    replaced = credit.replace_truncated(rewards, MASK, ended, -1.5)
    assert replaced.tolist() == [[2, 2, 2, 0], [-1.5, 0, 0, 0], [0, 0, 0, -1.5], [0, 0, 0, 0]]
    assert credit.replace_truncated(rewards, MASK, ended, None) is rewards


def test_a_non_finite_score_of_a_cut_response_does_not_survive_the_penalty():
    rewards = torch.tensor([[NAN, float("inf")]])
    assert credit.replace_truncated(rewards, torch.ones(1, 2), torch.tensor([False]), -1.0).tolist() == [[0, -1]]
