import math

import pytest

from align.evaluation.diversity import distinct, grams, repetition, self_bleu


def test_distinct_by_hand():
    texts = ["The cat sat", "the cat ran", ""]
    assert grams("a b  c", 2) == [("a", "b"), ("b", "c")]
    assert distinct(texts, 1) == 4 / 6  # the cat sat ran
    assert distinct(texts, 2) == 3 / 4  # "the cat" twice
    assert distinct(["a", "b"], 2) is None


def test_repetition_by_hand():
    assert repetition("a b c d e f g h") == 0.0
    assert repetition("a b c d a b c d") == 1 - 4 / 5  # of five 4-grams the last is the first
    assert repetition("x " * 10) == 1 - 1 / 7
    assert repetition("too short") == 0.0


def test_self_bleu_by_hand():
    assert self_bleu(["the cat sat on the mat"] * 3) == 1.0
    assert self_bleu(["one text"]) is None
    assert self_bleu(["one text", "  "]) is None
    # "a b c" against "a b d e": 1-grams 2/3, 2-grams 1/2, 3-grams 0 of 1 smoothed to 0.1; brevity exp(1 - 4/3).
    first = math.exp(1 - 4 / 3 + (math.log(2 / 3) + math.log(1 / 2) + math.log(0.1)) / 3)
    # the other way: 2/4, 1/3, 0.1/2, 0.1/1; longer than its reference
    second = math.exp((math.log(2 / 4) + math.log(1 / 3) + math.log(0.1 / 2) + math.log(0.1)) / 4)
    assert self_bleu(["a b c", "a b d e"]) == pytest.approx((first + second) / 2, rel=1e-12)


def test_a_reference_lends_no_more_matches_than_it_has():
    one = self_bleu(["a a a", "a"])
    # 1-grams 1/3, 2-grams .1/2, 3-grams .1/1, no penalty; and "a": 1/1 with brevity exp(1 - 3)
    expected = (math.exp((math.log(1 / 3) + math.log(0.05) + math.log(0.1)) / 3) + math.exp(-2)) / 2
    assert one == pytest.approx(expected, rel=1e-12)


def test_case_does_not_make_words_different():
    assert self_bleu(["The Cat", "the cat"]) == 1.0
