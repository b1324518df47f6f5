"""The rules about the text, by hand; GSM8K's solutions and corrupted ones; what they read of a data row."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path

import pytest
import torch

from align.config import RulesSource
from align.config.rules import ExactRule, FormatRule, NumericRule, RegexRule, RepetitionRule, WordLimitRule
from align.errors import InputError
from align.rewards import reward_input
from align.rewards import text_rules as rules
from align.rewards.rules import RulesScorer, check_rows
from examples.gsm8k import corrupted, pairs
from tests import tiny

OWN = Path(__file__).parents[1] / "layouts" / "gsm8k.jsonl"
FULL = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "test.jsonl"


def test_word_limit_falls_to_0_at_twice_the_limit():
    texts = ["", "a b", "a b c d", "a b c d e", "a b c d e f", "a b c d e f g h", "a b c d e f g h i j"]
    assert [rules.word_limit(t, 4) for t in texts] == [1, 1, 1, 0.75, 0.5, 0, 0]
    assert rules.word_limit("a b c", None) == 1


def test_length_window_falls_on_both_sides():
    scores = [rules.length_window("w " * n, 2, 4, 1) for n in range(8)]
    assert scores == [0, 0.5, 1, 1, 1, 0.5, 0, 0]
    assert [rules.length_window("w " * n, 2, 4, 0) for n in (1, 2, 4, 5)] == [0, 1, 1, 0]


def test_regex():
    assert [rules.regex(t, r"\d+", False) for t in ("a 1", "a", "12")] == [1, 0, 1]
    assert [rules.regex(t, r"\d+", True) for t in ("a 1", "12")] == [0, 1]
    assert rules.regex("Yes\nno", r"(?is)yes.no", True) == 1


@pytest.mark.parametrize(
    ("shape", "good", "bad"),
    [
        (
            rules.gsm8k,
            ["So 18.\n#### 18", "#### -3", "a\n#### $1,200.50\n", "a\n####7 "],
            ["18", "#### 18\nso it is", "#### 1\n#### 2", "#### many", "a #### 18", "####"],
        ),
        (
            rules.boxed,
            [r"so \boxed{4}", r"\boxed{\frac{1}{2}}"],
            [r"\boxed{}", r"\boxed{1} \boxed{2}", r"\boxed{1", "1"],
        ),
        (
            rules.think,
            ["<think>so\nso</think> 4", "<think></think>\nyes"],
            [
                "4",
                "<think>a</think>",
                "x <think>a</think> b",
                "<think>a</think><think>b</think> c",
                "</think>a<think> b",
            ],
        ),
        (rules.is_json, ['{"a": [1]}', "[]"], ["", "4", "{'a': 1}", '{"a": 1} x', "[" * 100_000]),
    ],
)
def test_shapes(shape, good, bad):
    assert [shape(t) for t in good] == [1] * len(good)
    assert [shape(t) for t in bad] == [0] * len(bad)


def test_repetition_is_the_share_of_grams_that_are_new():
    assert rules.repetition("The the the the", 1) == 0.25
    assert rules.repetition("a b a b a b", 2) == 2 / 5
    assert rules.repetition("a b c", 2) == rules.repetition("a", 3) == rules.repetition("", 1) == 1


def test_forbidden_phrases_are_whole_words():
    phrases = ["as an AI", "sorry"]
    assert [rules.forbidden(t, phrases) for t in ("As  an\nai, no", "SORRY!", "sorrynot", "as an aim", "")] == [
        0,
        0,
        1,
        1,
        1,
    ]


def test_exact_answers():
    assert [rules.exact(t, "The Moon.") for t in ("the  moon", " The Moon ", "a moon", "")] == [1, 1, 0, 0]
    assert rules.exact("12", 12) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 18", "18"),
        ("#### -3", "-3"),
        ("#### −3", "-3"),
        ("#### 1,234,567", "1234567"),
        ("#### $1,200.50 in all", "1200.5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### €.5", "0.5"),
        ("#### 18.", "18"),
        ("#### 18, I think", "18"),
        ("#### 70%", "70"),
        ("#### +4", "4"),
        ("#### 1\n#### 2\nor 3", "2"),
        ("####\n5", "5"),
        ("18", None),
        ("#### eighteen", None),
        ("#### 1,23", None),
    ],
)
def test_numbers_behind_the_marker(text, value):
    assert rules.number_of(text, "####") == (None if value is None else Decimal(value))


def test_the_last_number_without_a_marker():
    found = {"10-3 is 7": 7, "from 5 to -2": -2, "a-3": 3, "(4)-1": 1, "none": None, "1,5 or 2": 2, "it is 3.": 3}
    assert {text: rules.number_of(text, None) for text in found} == found


def test_what_counts_as_equal():
    assert rules.numeric("#### 18.00", "#### 18", "####") == rules.numeric("#### 18", 18, "####") == 1
    assert rules.numeric("it is 1,000", "1000", None) == 1
    assert rules.numeric("#### 0.3", 0.3, "####") == 1
    assert [rules.numeric("#### 3.14", 3.14159, "####", t) for t in (0, 0.001, 0.01)] == [0, 0, 1]
    assert rules.numeric("18", "#### 18", "####") == 0  # the place is part of the answer: `format` says so beside it


@pytest.mark.parametrize("path", [OWN, FULL], ids=["own", "published"])
def test_given_solutions_of_gsm8k_are_right_and_corrupted_ones_wrong(path):
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rng = random.Random(0)
    answers = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    assert len(answers) in (18, 1319)
    for answer in answers:
        other = corrupted(answer, rng)
        assert (rules.numeric(answer, answer, "####"), rules.gsm8k(answer)) == (1, 1)
        assert (rules.numeric(other, answer, "####"), rules.gsm8k(other)) == (0, 1), other
        assert rules.numeric(answer.replace("####", "Answer:"), answer, "####") == 0


# --- the source -------------------------------------------------------------------------------------------------------


def batch(responses: list[str], rows: list[dict]):
    starts = tiny.prompts(len(responses))
    out = reward_input(tiny.rollout_of(starts, [tiny.said("a")] * len(responses)), starts, tiny.chat())
    return type(out)(**vars(out) | {"responses": responses, "rows": rows})


NO_LIMIT = WordLimitRule(weight=0.0)


def test_the_sum_and_its_parts():
    """A row's own limit takes precedence; what has no weight is neither computed nor logged."""
    source = RulesSource(
        word_limit=WordLimitRule(weight=2.0, limit=4),
        repetition=RepetitionRule(weight=-1.0, size=1),
        exact=ExactRule(weight=0.0, column="nowhere"),
    )
    out = RulesScorer(source).score(batch(["a a a a a", "a b c d"], [{}, {"word_limit": 2}]))
    assert list(out.parts) == ["word_limit", "repetition"]
    assert out.raw_parts["word_limit"].tolist() == [0.75, 0.0]
    assert out.parts["word_limit"].tolist() == [1.5, 0.0]
    assert out.parts["repetition"].tolist() == pytest.approx([-0.2, -1.0])
    assert out.total.tolist() == pytest.approx([1.3, -1.0]) and out.total.dtype is torch.float32


def test_gsm8k_as_a_run_scores_it():
    rows = list(pairs(OWN.read_text().splitlines()))
    source = RulesScorer(
        RulesSource(word_limit=NO_LIMIT, numeric=NumericRule(weight=1.0), format=FormatRule(weight=0.2))
    )
    for side, right in (("chosen", 1.0), ("rejected", 0.0)):
        out = source.score(batch([row[side] for row in rows], rows))
        assert set(out.raw_parts["numeric"].tolist()) == {right} and set(out.raw_parts["format"].tolist()) == {1.0}
        assert out.total.tolist() == pytest.approx([right + 0.2] * len(rows))


@pytest.mark.parametrize(
    ("rule", "row", "message"),
    [
        (
            {"numeric": NumericRule(weight=1.0)},
            {"b": 1},
            r"s\.numeric\.column: given 'answer'; allowed: a column of the data: b",
        ),
        ({"numeric": NumericRule(weight=1.0)}, {"answer": "none"}, r"s\.numeric\.column: .*prompt 10 .* has 'none'"),
        ({"exact": ExactRule(weight=1.0)}, {"answer": " "}, r"s\.exact\.column: .*has none"),
        ({"word_limit": WordLimitRule(weight=1.0)}, {"b": 1}, r"s\.word_limit\.column: given 'word_limit'"),
        ({"word_limit": WordLimitRule(weight=1.0)}, {"word_limit": 0}, r"s\.word_limit\.column: .*has 0"),
    ],
)
def test_rows_that_a_rule_cannot_read_are_refused_before_the_run(rule, row, message):
    first = tiny.prompts(1)[0]
    prompt = type(first)(**vars(first) | {"row": row})
    with pytest.raises(InputError, match=message):
        check_rows(RulesSource(**({"word_limit": NO_LIMIT} | rule)), [prompt], "s")


def test_a_column_that_need_not_be_there():
    check_rows(
        RulesSource(word_limit=WordLimitRule(weight=1.0, limit=5), regex=RegexRule(weight=1.0, pattern="a")),
        tiny.prompts(2),
        "s",
    )
