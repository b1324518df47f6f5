"""The gold reward: perfect answers score 1, every flaw less, and the total is the exact sum of the segments."""

from __future__ import annotations

import math
import random

import pytest

from align.errors import InputError
from align.worlds import get
from align.worlds.pocket import FAMILIES, FLAWS, Task, flawed, perfect, sample_task, sloppy, split
from align.worlds.pocket.task import words

WORLD = get("pocket")
SAMPLES = 60


def tasks(family: str, count: int = SAMPLES) -> list[Task]:
    rng = random.Random(f"test-{family}")
    return [sample_task(rng, family) for _ in range(count)]


def fixed(family: str, spec: str, limit: int | None = None) -> dict[str, object]:
    return {"family": family, "spec": spec, "word_limit": limit}


def credits(row: dict[str, object], response: str, ended: bool = True) -> list[tuple[str, float, str]]:
    """(text, credit rounded to 3 places, label) of every segment."""
    segments = WORLD.gold(row, response, ended).segments
    return [(response[s.start : s.end], round(s.credit, 3), s.label) for s in segments]


def test_world_has_enough_families() -> None:
    lengths = [family.length for family in FAMILIES.values()]
    assert lengths.count("short") >= 10 and lengths.count("long") >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_perfect_answers_score_one(family: str) -> None:
    rng = random.Random(1)
    for task in tasks(family):
        response = perfect(task, rng)
        assert WORLD.gold(task.row(), response, True).total == 1.0, (task.prompt, response)
        assert task.word_limit is None or words(response) <= task.word_limit


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_flaw_scores_lower(family: str, flaw: str) -> None:
    rng = random.Random(2)
    shown = 0
    for task in tasks(family):
        answer = flawed(task, flaw, rng)
        if answer is None:
            continue
        gold = WORLD.gold(task.row(), *answer)
        labels = {part for s in gold.segments for part in s.label.split("+")}
        shown += 1
        assert -1.0 <= gold.total < 1.0
        # an off-topic sentence as short as a bare answer reads as a wrong answer
        assert flaw in labels or (flaw == "off_topic" and "wrong" in labels), (task.prompt, answer, gold)
    assert shown >= SAMPLES // 10


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_lie_apart_and_sum_exactly(family: str) -> None:
    rng = random.Random(3)
    responses = [(t, sloppy(t, rng)) for t in tasks(family)] + [(t, t.prompt * 3) for t in tasks(family, 5)]
    for task, response in responses:
        cut = rng.randrange(len(response) + 1)
        for text, ended in ((response, True), (response[:cut], False), (response * 4, True), ("", True)):
            gold = WORLD.gold(task.row(), text, ended)
            at, running = 0, 0.0
            for segment in gold.segments:
                assert at <= segment.start <= segment.end <= len(text)
                assert segment.end > segment.start or segment.start == len(text)
                at, running = segment.end, running + segment.credit
                assert -1.0 <= running <= 1.0
            assert running == gold.total
            # whatever is outside the segments is blank
            covered = [text[a.end : b.start] for a, b in zip(gold.segments, gold.segments[1:], strict=False)]
            assert all(not gap.strip() for gap in covered)


def test_short_credits_by_hand() -> None:
    row = fixed("capital", '{"key": "France", "phrase": 0}')
    assert credits(row, "Paris.") == [("Paris.", 1.0, "good")]
    assert credits(row, "the answer is paris") == [("the answer is paris", 1.0, "good")]
    assert credits(row, "Rome.") == [("Rome.", -0.5, "wrong")]
    assert credits(row, "") == [("", -0.25, "missing")]
    assert credits(row, "", ended=False) == [("", -0.65, "missing+no_end")]
    assert credits(row, "Sure! I think Paris. Paris.") == [
        ("Sure!", -0.2, "filler"), ("I think ", -0.4, "hedged"), ("Paris.", 1.0, "good"), ("Paris.", -0.5, "repeated"),
    ]  # fmt: skip
    assert credits(row, "The king slept under a tree.") == [
        ("The king slept under a tree.", -0.5, "off_topic"), ("", -0.25, "missing"),
    ]  # fmt: skip
    # the first attempt counts: a second one earns nothing
    assert credits(row, "Rome. Paris.") == [("Rome.", -0.5, "wrong"), ("Paris.", -0.5, "extra")]


def test_words_over_the_limit_are_charged_where_they_stand() -> None:
    row = fixed("capital", '{"key": "France", "phrase": 0}', limit=5)
    assert credits(row, "The capital of France is Paris. Have a nice day!") == [
        ("The capital of France is ", 1.0, "good"), ("Paris.", -0.05, "over_limit"),
        ("Have a nice day!", -0.399, "filler+over_limit"),
    ]  # fmt: skip


def test_long_credits_by_hand() -> None:
    row = fixed("numbers", '{"numbers": [3, 8, 12, 5], "phrase": 0}')
    response = (
        "The number 3 is odd and comes before 4. The number 8 is odd and comes before 9. "
        "Perhaps the number 5 is odd and comes before 6. The king slept under a tree at noon after a long day."
    )
    assert [(c, label) for _, c, label in credits(row, response)] == [
        (0.25, "good"), (-0.125, "wrong"), (-0.1, "hedged"), (0.25, "good"),
        (-0.25, "off_topic"), (-0.062, "missing"),
    ]  # fmt: skip


def test_numbered_lines_are_read_by_their_number() -> None:
    row = fixed("steps", '{"goal": "make tea", "name": "Ann", "phrase": 0}')
    right = ["Boil the water.", "Put the tea in the pot.", "Pour the water on the tea.", "Wait for three minutes."]
    swapped = "\n".join(f"{i}. {s}" for i, s in enumerate([right[1], right[0], *right[2:], "Drink the tea."], 1))
    assert [label for *_, label in credits(row, swapped)] == ["wrong", "wrong", "good", "good", "good"]
    assert credits(row, swapped)[2][0] == "3. Pour the water on the tea."
    skipped = "1. Boil the water.\n3. Pour the water on the tea."
    assert [label for *_, label in credits(row, skipped)] == ["good", "good", "missing"]


def test_the_total_stops_at_minus_one() -> None:
    row = fixed("capital", '{"key": "France", "phrase": 0}')
    gold = WORLD.gold(row, "Rome. London. Rome. A. B. C. Paris.", False)
    assert gold.total == -1.0 and math.fsum(s.credit for s in gold.segments) == -1.0


def test_null_limits_survive_a_data_frame() -> None:
    row = fixed("capital", '{"key": "France", "phrase": 0}', limit=float("nan"))  # type: ignore[arg-type]
    assert WORLD.gold(row, "Paris.", True).total == 1.0


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"family": "capital"}, "spec"),
        ({"family": "none", "spec": "{}", "word_limit": None}, "family"),
        ({"family": "capital", "spec": "{", "word_limit": None}, "spec"),
        ({"family": "capital", "spec": '{"key": "Atlantis"}', "word_limit": None}, "spec"),
    ],
)
def test_bad_rows_are_named(row: dict[str, object], key: str) -> None:
    with pytest.raises(InputError, match=f"data column {key}"):
        WORLD.gold(row, "Paris.", True)


def test_splits_are_by_prompt() -> None:
    sides = [split(task.prompt) for family in FAMILIES for task in tasks(family)]
    assert {side: round(sides.count(side) / len(sides), 1) for side in set(sides)} == {
        "train": 0.8, "tune": 0.1, "report": 0.1,
    }  # fmt: skip
