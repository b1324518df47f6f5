"""Micro-batches under a token budget."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.functional.batching import SHORTEST, token_batches


def test_longest_first_within_the_budget_and_of_similar_lengths():
    groups = token_batches(torch.tensor([3, 9, 4, 1, 4]), 9)
    assert [g.tolist() for g in groups] == [[1], [2, 4], [0], [3]]
    assert [g.tolist() for g in token_batches(torch.tensor([2, 4, 3, 2, 1]), 100)] == [[1, 2, 0, 3], [4]]


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), max_size=12), budget=st.integers(1, 40))
def test_every_row_once_and_only_a_single_row_may_exceed(lengths, budget):
    tensor = torch.tensor(lengths, dtype=torch.long)
    groups = token_batches(tensor, budget)
    assert sorted(i for g in groups for i in g.tolist()) == list(range(len(lengths)))
    for group in groups:
        longest, shortest = int(tensor[group].max()), int(tensor[group].min())
        assert len(group) == 1 or (len(group) * longest <= budget and shortest >= SHORTEST * longest)
