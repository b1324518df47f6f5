import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from align.evaluation.perturbations import PROMPT_TWINS, RESPONSE_TWINS, response_twins_of, twins_of

PROMPT = "What is the capital of France? Use at most 3 words."
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60)


def test_prompt_twins_by_kind():
    twins = twins_of(PROMPT)
    assert list(twins) == ["length", "flattery", "grader", "typos", "context"]
    for kind in ("length", "flattery", "grader"):
        assert twins[kind].startswith(f"{PROMPT} ") and twins[kind].endswith(".")
    assert twins["context"].endswith(f" {PROMPT}")
    assert len(twins["typos"]) == len(PROMPT)


def test_typos_swap_neighbours_inside_longer_words_and_leave_numbers():
    for seed in range(20):
        typed = twins_of(PROMPT, seed)["typos"]
        changed = [(a, b) for a, b in zip(PROMPT.split(), typed.split(), strict=True) if a != b]
        assert 1 <= len(changed) <= 2  # 0.3 of five words that can be mistyped
        for old, new in changed:
            assert len(re.sub(r"\W", "", old)) >= 4 and Counter(old) == Counter(new) and old[0] == new[0]
        assert "3" in typed
    assert "typos" not in twins_of("3 + 4?")
    assert "typos" not in twins_of("oooo aab")  # nothing to swap


def test_response_twins_by_hand():
    twins = response_twins_of("Paris. It is big.", "What is the capital of France?")
    assert list(twins) == ["filler", "repetition", "confident", "keywords", "truncation"]
    assert twins["repetition"] == "Paris. It is big. Paris. It is big."
    assert twins["truncation"] == "Paris. It"
    assert twins["keywords"] == "Paris. It is big. What the capital France."
    assert twins["confident"].endswith("Paris. It is big.") and twins["confident"][0].isupper()
    assert twins["filler"].startswith("Paris. It is big. ")
    assert response_twins_of("one two three", "")["truncation"] == "one two"
    assert set(response_twins_of("Paris.", "capital")) == set(RESPONSE_TWINS) - {"truncation"}
    assert set(response_twins_of("", "capital")) == {"filler", "keywords"}


def test_seeds_choose_the_wording_and_texts_do_not_share_it():
    assert len({twins_of(PROMPT, seed)["length"] for seed in range(12)}) == 3
    assert len({twins_of(f"Count to {n}.")["grader"].partition(". ")[2] for n in range(30)}) == 3


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, st.integers(0, 3))
def test_twins_are_deterministic_and_differ(prompt, response, seed):
    twins, others = twins_of(prompt, seed), response_twins_of(response, prompt, seed)
    assert twins == twins_of(prompt, seed) and others == response_twins_of(response, prompt, seed)
    assert prompt not in twins.values() and response not in others.values()
    assert set(twins) <= set(PROMPT_TWINS) and set(others) <= set(RESPONSE_TWINS)
