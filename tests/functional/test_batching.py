"""Micro-batches under a token budget."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.functional.batching import SHORTEST, token_batches


def test_longest_first_within_the_budget_and_of_similar_lengths():
    groups = token_batches(torch.tensor([3, 9, 4, 1, 4]), 9)
    assert [g.tolist() for g in groups] == [[1], [2, 4], [0], [3]]
    assert [g.tolist() for g in token_batches(torch.tensor([2, 4, 3, 2, 1]), 100)] == [[1, 2, 0, 3], [4]]


def test_rows_of_one_prompt_stay_together_as_far_as_the_budget_allows():
    lengths, prompts = torch.tensor([5, 9, 6, 4, 8, 7]), torch.tensor([3, 1, 3, 1, 2, 2])
    assert [g.tolist() for g in token_batches(lengths, 40, prompts)] == [[1, 3, 4, 5], [2, 0]]
    assert [g.tolist() for g in token_batches(lengths, 20, prompts)] == [[1, 3], [4, 5], [2, 0]]
    assert [g.tolist() for g in token_batches(lengths, 10, prompts)] == [[1], [4], [5], [2], [0, 3]]


def test_a_shared_prompt_counts_once():
    """Two prompts of 50 tokens, four responses of 10 each: 90 tokens a group where 240 are read row by row."""
    lengths, prompts, shared = torch.full((8,), 60), torch.tensor([0, 1] * 4), torch.full((8,), 50)
    whole = [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [g.tolist() for g in token_batches(lengths, 90, prompts, shared)] == whole
    assert [g.tolist() for g in token_batches(lengths, 179, prompts, shared)] == whole
    assert [sorted(g.tolist()) for g in token_batches(lengths, 180, prompts, shared)] == [list(range(8))]
    assert [g.tolist() for g in token_batches(lengths, 89, prompts, shared)] == [[0, 2, 4], [6], [1, 3, 5], [7]]
    assert [g.tolist() for g in token_batches(lengths, 180, prompts)] == [[0, 2, 4], [6], [1, 3, 5], [7]]


def test_a_row_alone_shares_with_nobody():
    lengths, shared = torch.tensor([60, 60, 60]), torch.full((3,), 50)
    assert [g.tolist() for g in token_batches(lengths, 119, torch.arange(3), shared)] == [[0], [1], [2]]
    assert [g.tolist() for g in token_batches(lengths, 120, torch.arange(3), shared)] == [[0, 1], [2]]


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), max_size=12), budget=st.integers(1, 40))
def test_rows_of_prompts_of_their_own_are_batched_as_rows(lengths, budget):
    tensor = torch.tensor(lengths, dtype=torch.long)
    alone, own = token_batches(tensor, budget), token_batches(tensor, budget, torch.arange(len(lengths)))
    assert [g.tolist() for g in alone] == [g.tolist() for g in own]


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), max_size=12), budget=st.integers(1, 40))
def test_every_row_once_and_only_a_single_row_may_exceed(lengths, budget):
    tensor = torch.tensor(lengths, dtype=torch.long)
    groups = token_batches(tensor, budget)
    assert sorted(i for g in groups for i in g.tolist()) == list(range(len(lengths)))
    for group in groups:
        longest, shortest = int(tensor[group].max()), int(tensor[group].min())
        assert len(group) == 1 or (len(group) * longest <= budget and shortest >= SHORTEST * longest)
