"""Duplicates are counted, and no near-duplicate of a prompt is on the other side of the split."""

from __future__ import annotations

import pytest

from align.data.duplicates import near, normal_form
from align.errors import InputError
from tests import tiny
from tests.data.test_preferences import balanced, load, many, row, sides


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Why is the sky blue?", "why  is the\nsky Blue", True),
        ("“Hello”, world!", '"hello" WORLD', True),
        ("ﬁne", "fine", True),  # one character, compatible with two
        ("Straße.", "STRASSE", True),
        ("2 + 3", "2 - 3", False),
        ("2.5", "25", False),
        ("what's new", "whats new", False),
        ("(2 + 3) * 4", "2 + (3 * 4)", False),
        ("a b", "ab", False),
    ],
)
def test_what_is_a_near_duplicate(a, b, same):
    first, second = tiny.prompt(1, a), tiny.prompt(2, b)
    assert (normal_form(first) == normal_form(second)) is same
    assert near([second], [first]) == ({2} if same else set())


def test_roles_and_other_turns_count():
    alone = tiny.prompt(1, "q")
    turns = ({"role": "system", "content": "be brief"}, *alone.messages)
    longer = type(alone)(2, turns, "q", alone.input_ids, {})
    assert near([longer], [alone]) == set()


def test_near_duplicates_follow_the_held_out_prompt(chat, write):
    rows = many(20, 1)
    before = load(chat, write("a.jsonl", rows), held_out_fraction=0.2)
    held, trained = sides(before)[1], sides(before)[0]
    twins = [row(text.upper() + "!") for text in sorted(held)[:2]] + [row(text + " .") for text in sorted(trained)[:1]]
    after = load(chat, write("b.jsonl", [*rows, *twins]), held_out_fraction=4 / 23)
    assert {text.lower().strip(" !.") for text in sides(after)[1]} & {
        t.lower().strip(" !.") for t in sides(after)[0]
    } == set()
    assert after.counts["near_duplicate_prompts"] == 3 and after.counts["rows"] == 23
    assert balanced(after.counts)


def test_given_held_out_rows_lose_near_duplicates_of_training_prompts(chat, write):
    held = write("h.jsonl", [row("Prompt 1?"), row("prompt 1"), row("new")])
    data = load(chat, write("a.jsonl", many(4, 1)), held_out_path=held)
    assert sides(data)[1] == {"new"}
    assert (data.counts["near_overlapping_dropped"], data.counts["overlapping_dropped"]) == (1, 1)
    assert data.counts["near_duplicate_prompts"] == 1
    assert balanced(data.counts)


def test_rows_that_repeat_another_are_kept_and_counted(chat, write):
    data = load(chat, write("a.jsonl", [row("p"), row("p"), row("p", "other"), row("q")]))
    assert (data.counts["duplicate_rows"], data.counts["train"]) == (1, 4)


def test_prompts_of_one_kind_cannot_be_split(chat, write):
    with pytest.raises(InputError, match=r"^data\.path: given 'prompts that differ in case"):
        load(chat, write("a.jsonl", [row("p"), row("P")]), held_out_fraction=0.5)
