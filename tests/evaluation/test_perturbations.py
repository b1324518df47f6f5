import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from align.evaluation.perturbations import (
    PROMPT_PERTURBATIONS,
    RESPONSE_PERTURBATIONS,
    perturbations_of,
    response_perturbations_of,
)

PROMPT = "What is the capital of France? Use at most 3 words."
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60)


def test_prompt_perturbations_by_kind():
    perturbations = perturbations_of(PROMPT)
    assert list(perturbations) == ["length", "flattery", "grader", "typos", "context"]
    for kind in ("length", "flattery", "grader"):
        assert perturbations[kind].startswith(f"{PROMPT} ") and perturbations[kind].endswith(".")
    assert perturbations["context"].endswith(f" {PROMPT}")
    assert len(perturbations["typos"]) == len(PROMPT)


def test_typos_swap_neighbours_inside_longer_words_and_leave_numbers():
    for seed in range(20):
        typed = perturbations_of(PROMPT, seed)["typos"]
        changed = [(a, b) for a, b in zip(PROMPT.split(), typed.split(), strict=True) if a != b]
        assert 1 <= len(changed) <= 2  # 0.3 of five words that can be mistyped
        for old, new in changed:
            assert len(re.sub(r"\W", "", old)) >= 4 and Counter(old) == Counter(new) and old[0] == new[0]
        assert "3" in typed
    assert "typos" not in perturbations_of("3 + 4?")
    assert "typos" not in perturbations_of("oooo aab")  # nothing to swap


def test_response_perturbations_by_hand():
    perturbations = response_perturbations_of("Paris. It is big.", "What is the capital of France?")
    assert list(perturbations) == ["filler", "repetition", "confident", "keywords", "truncation"]
    assert perturbations["repetition"] == "Paris. It is big. Paris. It is big."
    assert perturbations["truncation"] == "Paris. It"
    assert perturbations["keywords"] == "Paris. It is big. What the capital France."
    assert perturbations["confident"].endswith("Paris. It is big.") and perturbations["confident"][0].isupper()
    assert perturbations["filler"].startswith("Paris. It is big. ")
    assert response_perturbations_of("one two three", "")["truncation"] == "one two"
    assert set(response_perturbations_of("Paris.", "capital")) == set(RESPONSE_PERTURBATIONS) - {"truncation"}
    assert set(response_perturbations_of("", "capital")) == {"filler", "keywords"}


def test_seeds_choose_the_wording_and_texts_do_not_share_it():
    assert len({perturbations_of(PROMPT, seed)["length"] for seed in range(12)}) == 3
    assert len({perturbations_of(f"Count to {n}.")["grader"].partition(". ")[2] for n in range(30)}) == 3


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, st.integers(0, 3))
def test_perturbations_are_deterministic_and_differ(prompt, response, seed):
    perturbations, others = perturbations_of(prompt, seed), response_perturbations_of(response, prompt, seed)
    assert perturbations == perturbations_of(prompt, seed) and others == response_perturbations_of(
        response, prompt, seed
    )
    assert prompt not in perturbations.values() and response not in others.values()
    assert set(perturbations) <= set(PROMPT_PERTURBATIONS) and set(others) <= set(RESPONSE_PERTURBATIONS)
