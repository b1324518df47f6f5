import math
import statistics

import pytest

from align.evaluation.comparison import bootstrap, mean_by, outcomes, verbosity, win_rate


def rate(scores, baseline, same=None, confidence=0.95):
    won = outcomes(scores, baseline, [False] * len(scores) if same is None else same)
    return win_rate(won, confidence=confidence, seed=0)


def test_wins_ties_and_losses():
    found = rate([2.0, 1.0, 0.0, 5.0], [1.0, 1.0, 1.0, 4.0])
    assert found["mean"] == (1 + 0.5 + 0 + 1) / 4
    assert 0 <= found["low"] < found["mean"] < found["high"] <= 1
    assert rate([1.0, 2.0], [1.0, 2.0], confidence=0.9) == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert rate([0.0], [1.0], confidence=0.9) == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_one_response_ties_with_itself():
    """However its two scores were rounded."""
    scores, baseline = [1.0000001, 0.3, 1.0000001], [1.0, 0.3000001, 1.0]
    assert outcomes(scores, baseline, [True, True, False]) == [0.5, 0.5, 1.0]
    assert outcomes([math.nan], [1.0], [True]) == [None]


def test_prompts_without_a_score_are_left_out():
    nan = math.nan
    assert rate([nan, 2.0, 1.0], [0.0, 1.0, nan])["mean"] == 1.0
    assert rate([nan], [0.0]) == {"mean": None, "low": None, "high": None}
    for given in (([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, 2.0], [True])):
        with pytest.raises(ValueError, match="zip"):
            rate(*given)


def test_interval_is_the_binomial_one_and_seeded():
    values = [1.0] * 120 + [0.0] * 80
    low, high = bootstrap(values, confidence=0.95, seed=3)
    se = math.sqrt(0.6 * 0.4 / 200)
    assert low == pytest.approx(0.6 - 1.96 * se, abs=0.008)
    assert high == pytest.approx(0.6 + 1.96 * se, abs=0.008)
    assert (low, high) == bootstrap(values, confidence=0.95, seed=3)
    narrow = bootstrap(values, confidence=0.5, seed=3)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * se, abs=0.008)


def test_interval_covers_as_often_as_it_says():
    import random

    rng, hits = random.Random(0), 0
    for trial in range(60):
        values = [float(rng.random() < 0.3) for _ in range(50)]
        low, high = bootstrap(values, confidence=0.8, seed=trial)
        hits += low <= 0.3 <= high
    assert 40 <= hits <= 56  # 48 +- 2.6 standard deviations


def test_verbosity_by_hand():
    figures = verbosity(["one two", "one", "a b  c\nd"], [3, 2, 7], [{}, {"word_limit": None}, {"word_limit": 3}], 2)
    assert figures == {
        "mean_tokens": 4.0,
        "median_tokens": 3.0,
        "std_tokens": pytest.approx(statistics.pstdev([3, 2, 7])),
        "mean_words": pytest.approx(7 / 3),
        "compliance_rate": pytest.approx(2 / 3),
    }
    assert verbosity(["one two"], [3], [{"word_limit": 1}], 50)["compliance_rate"] == 0.0
    assert verbosity(["one two"], [3], [{"word_limit": 2}], 1)["compliance_rate"] == 1.0


def test_mean_by():
    rows = [{"length": "short"}, {"length": "long"}, {}, {"length": "short"}]
    assert mean_by([1.0, 2.0, 9.0, 4.0], rows, "length") == {"long": 2.0, "short": 2.5}
