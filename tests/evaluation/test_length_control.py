import math
import random

import pytest
import torch

from align.evaluation.length_control import fit, length_controlled

F64 = torch.float64
SETTINGS = {"confidence": 0.95, "seed": 0, "resamples": 400}


def test_without_a_difference_it_is_the_raw_rate():
    wins = [1.0, 0.5, 0.0, 1.0, 1.0]
    for difference in ([0] * 5, [7] * 5):
        figures = length_controlled(wins, difference, **SETTINGS)
        assert figures["mean"] == pytest.approx(0.7, abs=1e-9) and figures["length_effect"] == 0.0
    assert length_controlled([1.0, 1.0], [3, -4], **SETTINGS)["mean"] == 1.0
    assert length_controlled([0.0, 0.0], [3, -4], **SETTINGS)["mean"] == 0.0
    assert set(length_controlled([], [], **SETTINGS).values()) == {None}
    start = length_controlled([0.5] * 4, [0] * 4, **SETTINGS)
    assert (start["mean"], start["low"], start["high"]) == (0.5, 0.5, 0.5)


def test_the_estimate_is_a_stationary_point():
    rng = random.Random(1)
    x = [rng.gauss(5, 12) for _ in range(60)]
    y = [rng.choice([0.0, 0.5, 1.0]) for _ in x]
    theta, phi = (float(v[0]) for v in fit(torch.tensor([y], dtype=F64), torch.tensor([x], dtype=F64)))
    mean = sum(x) / 60
    s = math.sqrt(sum((v - mean) ** 2 for v in x) / 60)
    features = [math.tanh(v / s) for v in x]
    residuals = [a - 1 / (1 + math.exp(-theta - phi * f)) for a, f in zip(y, features, strict=True)]
    assert abs(sum(residuals)) < 1e-8
    assert abs(sum(r * f for r, f in zip(residuals, features, strict=True)) - phi) < 1e-8  # the prior's pull


def test_wins_that_length_bought_are_taken_back():
    rng = random.Random(0)
    longer = [abs(rng.gauss(20, 10)) * (1 if rng.random() < 0.85 else -1) for _ in range(400)]
    wins = [float(rng.random() < (0.8 if d > 0 else 0.2)) for d in longer]  # quality alone would be a coin
    figures = length_controlled(wins, longer, **SETTINGS)
    assert sum(wins) / 400 > 0.68
    assert figures["low"] < 0.5 < figures["high"]
    assert figures["length_effect"] > 1
    mirrored = length_controlled([1 - w for w in wins], [-d for d in longer], **SETTINGS)
    assert mirrored["mean"] == pytest.approx(1 - figures["mean"], abs=1e-9)
    assert mirrored["length_effect"] == pytest.approx(figures["length_effect"], abs=1e-9)


def test_perfect_separation_stays_finite_and_seeded():
    figures = length_controlled([1.0, 1.0, 0.0, 0.0], [3, 4, -3, -4], **SETTINGS)
    assert figures["mean"] == pytest.approx(0.5, abs=1e-9)
    assert 0 < figures["length_effect"] < 3
    assert 0 <= figures["low"] <= 0.5 <= figures["high"] <= 1
    assert figures == length_controlled([1.0, 1.0, 0.0, 0.0], [3, 4, -3, -4], **SETTINGS)
