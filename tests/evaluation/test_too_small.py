"""An evaluation that is too small for what it shows is noted, with how large it would have to be."""

from __future__ import annotations

import math

import pytest

from align.config import DataConfig
from align.errors import NOTE
from align.evaluation.too_small import HeldOut, too_small
from align.evaluation.verdicts import status_of
from tests import tiny

HELD_OUT = HeldOut(prompts=400, pairs=1000)
CLEAR = {
    "before": {"reward": {"gold_se": 0.2}},  # of 16 prompts: a deviation of 0.8
    "after": {
        "preference": {
            "pairs": 64,
            "prompts": 32,
            "log_ratio": {"accuracy": 0.75, "accuracy_low": 0.625, "accuracy_high": 0.875},
        },
        "win_rate": {"mean": 0.75, "low": 0.5625, "high": 0.9375, "judge": "gold"},
    },
    "delta": {"reward": {"gold_mean": 0.5, "gold_mean_low": 0.1, "gold_mean_high": 0.9}},
    "settings": {"num_prompts": 16},
}


def noted(held_out: HeldOut = HELD_OUT, config=None, **changes):
    return list(too_small(config or tiny.config(), tiny.changed(CLEAR, changes), held_out))


def test_differences_that_are_shown_and_those_that_do_not_look_like_any_are_passed_over():
    assert noted() == []
    level = {"accuracy": 0.6, "accuracy_low": 0.4, "accuracy_high": 0.7}
    none = {"mean": 0.4, "low": 0.2, "high": 0.6, "judge": "gold"}
    moved = {"gold_mean": -0.27, "gold_mean_low": -0.6, "gold_mean_high": 0.1}  # 0.35 of 0.8 is 0.28
    assert noted(after__preference__log_ratio=level, after__win_rate=none, delta__reward=moved) == []
    assert noted(after__preference={}, after__win_rate=none | {"mean": None}, delta__reward={}) == []


@pytest.mark.parametrize("side", [1, -1], ids=["up", "down"])
def test_a_win_rate_whose_interval_holds_a_half(side):
    """0.125 from a half with an end 0.25 away: twice as wide as it may be, so four times the 16 prompts."""
    ends = sorted((0.5 - side * 0.125, 0.5 + side * 0.3))
    (verdict,) = noted(after__win_rate={"mean": 0.5 + side * 0.125, "low": ends[0], "high": ends[1], "judge": "gold"})
    assert (verdict.level, verdict.key, verdict.figure) == (NOTE, "evaluation.num_prompts", side * 0.125)
    assert "on 16 prompts, which may be no change" in verdict.what
    assert "about 64 prompts would tell, and the data holds out 400" in verdict.what
    assert status_of([verdict]) == "finished"


def test_a_reward_is_measured_in_deviations_of_the_start_and_shares_the_note():
    moved = {"gold_mean": 0.3, "gold_mean_low": -0.3, "gold_mean_high": 0.9}  # (.6 / .3)^2 * 16
    (verdict,) = noted(delta__reward=moved)
    assert "gold reward +0.300 [-0.300, 0.900] on 16 prompts" in verdict.what and "about 64 prompts" in verdict.what
    rate = {"mean": 0.625, "low": 0.25, "high": 1.0, "judge": "gold"}  # (.375 / .125)^2 * 16
    (verdict,) = noted(delta__reward=moved, after__win_rate=rate)
    assert "win rate 0.625 [0.250, 1.000] and gold reward +0.300" in verdict.what and "about 150" in verdict.what


def test_pairs_are_counted_as_pairs_and_too_few_prompts_by_the_sign_test():
    shaky = {"accuracy": 0.65, "accuracy_low": 0.44, "accuracy_high": 0.86}  # (.21 / .15)^2 * 64 = 125.4
    (verdict,) = noted(after__preference__log_ratio=shaky)
    assert verdict.key == "evaluation.num_pairs" and "on 64 pairs" in verdict.what and "about 130 pairs" in verdict.what
    few = {"pairs": 10, "prompts": 5, "log_ratio": {"accuracy": 1.0, "accuracy_low": 1.0, "accuracy_high": 1.0}}
    (verdict,) = noted(after__preference=few)  # five heads in a row: 1 of 16, either way
    assert "about 12 pairs" in verdict.what  # six prompts
    assert noted(after__preference=few | {"prompts": 6}) == []
    one = {"pairs": 1, "prompts": 1, "log_ratio": {"accuracy": 1.0, "accuracy_low": None, "accuracy_high": None}}
    (verdict,) = noted(after__preference=one)
    assert "held-out accuracy 1.000 on 1 pair," in verdict.what and "about 6 pairs" in verdict.what


def test_where_the_data_holds_out_no_more_its_own_key_is_named():
    rate = {"mean": 0.625, "low": 0.375, "high": 0.8, "judge": "gold"}
    (verdict,) = noted(HeldOut(63, 1000), after__win_rate=rate)
    assert verdict.key == "data.held_out_fraction" and "would tell, but the data holds out only 63" in verdict.what
    config = tiny.config()
    for key, value in (("held_out_split", "test"), ("held_out_path", "held.jsonl")):
        config.data = DataConfig(path="unused", **{key: value})
        assert noted(HeldOut(63, 1000), config, after__win_rate=rate)[0].key == f"data.{key}"
    assert noted(HeldOut(64, 1000), config, after__win_rate=rate)[0].key == "evaluation.num_prompts"


def test_bounds_are_the_configurations_and_confidence_the_evaluations():
    config = tiny.config()
    shaky = {"accuracy": 0.65, "accuracy_low": 0.44, "accuracy_high": 0.86}
    moved = {"gold_mean": 0.3, "gold_mean_low": -0.3, "gold_mean_high": 0.9}
    assert len(noted(config=config, after__preference__log_ratio=shaky, delta__reward=moved)) == 2
    config.verdicts.share, config.verdicts.gain = 0.16, 0.4
    assert noted(config=config, after__preference__log_ratio=shaky, delta__reward=moved) == []
    few = {"pairs": 6, "prompts": 6, "log_ratio": {"accuracy": 1.0, "accuracy_low": 1.0, "accuracy_high": 1.0}}
    assert noted(config=config, after__preference=few) == []
    config.evaluation.confidence = 0.99  # 2^-6 is more than half of 0.01
    assert len(noted(config=config, after__preference=few)) == 1


def test_an_evaluation_of_the_usual_size_tells_what_it_would_note():
    """The widest interval of its shares is narrower than the bound, so that nothing is ever unclear."""
    config = tiny.config()
    for size in (config.evaluation.num_prompts, config.evaluation.num_pairs):
        assert 1.96 * math.sqrt(0.25 / size) < config.verdicts.share
    assert 1.96 * math.sqrt(2 / config.evaluation.num_prompts) < config.verdicts.gain  # of independent samples
