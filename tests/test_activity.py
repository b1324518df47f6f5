"""The channel of progress inside long work: counts, the share of a phase, and no more reports than anyone can read."""

import pytest

from align.activity import EVERY, SLOW, Activity
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def heard():
    return []


@pytest.fixture
def activity(heard, clock):
    return Activity(heard.append, clock)


def test_the_same_work_is_reported_a_few_times_a_second(activity, heard, clock):
    for i in range(1001):
        clock.now = i / 1000
        activity.advance("rows", i, 1000)
    assert [work.done for work in heard] == [0, *(int(1000 * EVERY * k) for k in range(1, 5))]
    assert str(heard[1]) == "rows 250/1000"


def test_other_work_is_reported_at_once(activity, heard):
    activity.advance("rows", 1, 2)
    activity.advance("loading the model")
    assert [str(work) for work in heard] == ["rows 1/2", "loading the model"]


def test_the_same_work_anew_is_reported_at_once(activity, heard):
    activity.advance("log-probabilities read", 16, 16)
    activity.advance("log-probabilities read", 0, 16)
    assert [work.done for work in heard] == [16, 0]


def test_groups_are_counted_by_their_rows(activity, heard, clock):
    groups = [[0, 1, 2], [3], [4, 5]]
    for seen, group in zip(activity.over(groups, "rows read", 6), groups, strict=True):
        assert seen is group
        clock.now += 1
    assert [(work.done, work.total) for work in heard] == [(0, 6), (3, 6), (4, 6), (6, 6)]


def test_the_share_of_a_phase_counts_what_its_parts_weigh(activity, heard, clock):
    with activity.phase("evaluation", {"sampling": 3, "reading": 1}):
        with activity.part("sampling"):
            for done in (0, 2, 4):
                activity.advance("responses", done, 8)
                clock.now += 1
        with activity.part("reading"):
            activity.advance("texts", 1, 2)
    counted = [work for work in heard if work.what]
    assert [work.share for work in counted] == [0, 3 / 4 * 2 / 8, 3 / 4 * 4 / 8, 3 / 4 + 1 / 4 * 1 / 2]
    assert {work.phase for work in counted} == {"evaluation"}
    assert not heard[-1].what and not heard[-1].phase  # the end is heard too


def test_a_phase_whose_work_nobody_knows_has_no_share(activity, heard):
    with activity.phase("evaluation", {}), activity.part("sampling"):
        activity.advance("responses", 4, 8)
    assert heard[1].share == 0


def test_without_a_listener_nothing_is_due():
    silent = Activity()
    assert not silent.due
    assert list(silent.over([[1]], "rows", 1)) == [[1]]


def test_the_share_inside_a_unit_of_work_follows_its_passes(activity, heard, clock):
    """Two of eight rows are next, in a pass forward and one backward that takes as long as two."""
    activity.advance("rows", 4, 8)
    activity.expect(0.75, passes=3)
    for begun, done in ((1, 0.5), (0, 1.0), (2, 0.25), (0, 1.0)):
        clock.now += 2 * SLOW
        if begun:
            activity.begin(begun)
        activity.inside("layer", done)
    twelfth = 0.25 / 3
    expected = [0.5, 0.5 + twelfth / 2, 0.5 + twelfth, 0.5 + twelfth + twelfth / 2, 0.75]
    assert [work.share for work in heard] == pytest.approx(expected)
    activity.advance("rows", 6, 8)
    assert heard[-1].share == 0.75


def test_a_pass_that_nobody_announced_moves_no_share(activity, heard, clock):
    activity.advance("rows", 2, 8)
    clock.now = 2 * SLOW
    activity.inside("layer 1 of 2", 0.5)
    assert [work.share for work in heard] == [0.25, 0.25]
