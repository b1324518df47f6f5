"""Held-out prompts that are edited trained ones: found where their characters overlap, however many there are."""

from __future__ import annotations

import random

import pytest

from align.data.similar import ALIKE, alike
from align.types import Prompt

BREAD = "How do I bake sourdough bread at home without a dutch oven?"
WORDS = ["".join(random.Random(i).choices("abcdefghijklmnop", k=2 + i % 7)) for i in range(5000)]


def prompt(text: str, *before: dict[str, str], number: int = 0) -> Prompt:
    return Prompt(number, (*before, {"role": "user", "content": text}), text, (1,), {})


def overlap(first: str, second: str) -> float:
    """The same share by plain sets."""
    one, two = ({text[i : i + 5] for i in range(len(text) - 4)} for text in (first, second))
    return len(one & two) / len(one | two)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("How can I bake sourdough bread at home without a dutch oven?", True),
        ("how do i bake SOURDOUGH bread at home without a Dutch oven", True),
        ("How do I bake sourdough bread at home without a dutch oven? Be brief.", True),
        ("How do I knit a warm jumper at home without long needles?", False),
        ("dutch", False),
        ("", False),
    ],
)
def test_a_prompt_with_words_edited_is_like_the_one_it_was(text, found):
    known, other = prompt(BREAD), prompt("What is the capital of Peru?")
    assert [(one.held_out.text, one.trained) for one in alike([prompt(text)], [other, known])] == [
        (text, known)
    ] * found


def test_what_all_prompts_share_beside_the_users_turns_makes_none_alike():
    system = {"role": "system", "content": "You are a careful assistant who answers in one short paragraph. " * 5}
    assert alike([prompt("Name a river.", system)], [prompt("Bake bread.", system)]) == []
    talks = [prompt("go on", {"role": "user", "content": text}) for text in ("Name a long river.", "Who bakes bread?")]
    assert alike(talks[:1], talks[1:]) == []


def test_each_held_out_prompt_counts_once_in_their_order():
    held = [prompt(f"{BREAD} {word}") for word in ("Please.", "Now.")]
    trained = [prompt(f"{BREAD} {word}", number=i) for i, word in enumerate(("Now!", "Please, sir."), start=5)]
    assert [one.held_out for one in alike(held, trained)] == held
    assert alike([], trained) == alike(held, []) == []


def test_of_many_prompts_nearly_all_that_overlap_are_found_and_no_others():
    draw = random.Random(0)
    known = [" ".join(draw.choices(WORDS, k=30)) for _ in range(600)]
    edited = []
    for place, text in enumerate(known):
        words = text.split()
        for i in draw.sample(range(30), place % 8):
            words[i] = draw.choice(WORDS)
        edited.append(" ".join(words))
    shares = [overlap(one, two) for one, two in zip(edited, known, strict=True)]
    found = {one.held_out.id for one in alike(
        [prompt(text, number=i) for i, text in enumerate(edited)], [prompt(text) for text in known]
    )}  # fmt: skip
    above = {i for i, share in enumerate(shares) if share >= ALIKE}
    assert 200 < len(above) < 550
    assert found <= above and len(found) >= 0.99 * len(above)
