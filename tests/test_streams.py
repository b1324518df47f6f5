"""Named random streams: functions of (seed, names) and of nothing else."""

import torch

from align.streams import derive, generator, in_passes, permutation


def test_a_stream_depends_on_seed_and_every_name_and_on_nothing_that_ran_before():
    streams = [
        (0, "a", 1),
        (1, "a", 1),
        (0, "b", 1),
        (0, "a", 2),
        (0, "a", "1"),
        (0, "a1"),
        (0, 1, "a"),
        (0, "a", 1, 0),
    ]
    assert len({derive(*s) for s in streams}) == len(streams)
    first = torch.rand(3, generator=generator(0, "a", 1))
    torch.manual_seed(5)
    torch.rand(100, generator=generator(0, "b"))
    assert torch.equal(torch.rand(3, generator=generator(0, "a", 1)), first)


def test_streams_stay_what_they_are_across_versions():
    """A resumed run reads the same noise: the derivation is part of a checkpoint's format."""
    assert derive(17, "prompts", 0) == 710521094876635838


def test_permutations():
    order = permutation(50, 3, "minibatch", 0, 1).tolist()
    assert sorted(order) == list(range(50))
    assert order == permutation(50, 3, "minibatch", 0, 1).tolist()
    assert order != permutation(50, 3, "minibatch", 0, 2).tolist()


def test_passes_follow_each_other_wherever_they_are_cut():
    whole = in_passes(5, 0, 15, 0, "pairs")
    assert [i for start in range(0, 15, 3) for i in in_passes(5, start, 3, 0, "pairs")] == whole
    passes = [whole[i : i + 5] for i in (0, 5, 10)]
    assert all(sorted(p) == list(range(5)) for p in passes) and len({tuple(p) for p in passes}) == 3
