import math

import pytest
import torch

from align.evaluation.reward_report import calibration, reward_report
from align.evaluation.reward_run import markdown, sheets
from align.types import RewardOutput

CPU = torch.device("cpu")


class Characters:
    """A reward model that pays a tenth for every character."""

    def score(self, batch, needs=frozenset()):
        return RewardOutput(total=torch.tensor([len(text) / 10 for text in batch.responses]))


@pytest.fixture(scope="module")
def report(chat, pairs, world):
    figures = reward_report(Characters(), chat, pairs, CPU, confidence=0.9, seed=0, by=["length"], world=world)
    return {"model": "m", "data": "d.jsonl", **figures}


def test_accuracy_is_that_of_the_longer_response(report, pairs):
    margins = [len(p.chosen) - len(p.rejected) for p in pairs]
    right = [1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins]
    assert report["accuracy"]["mean"] == sum(right) / len(right) == report["length_only"]["longer_wins"]
    assert report["length_only"]["shorter_wins"] == pytest.approx(1 - sum(right) / len(right))
    assert report["length_only"]["correlation"] == pytest.approx(1.0)
    assert report["accuracy"]["low"] <= report["accuracy"]["mean"] <= report["accuracy"]["high"]
    groups = report["by"]["length"]
    assert {name: g["pairs"] for name, g in groups.items()} == {"long": 4, "short": 3}
    for name, figures in groups.items():
        own = [r for r, p in zip(right, pairs, strict=True) if p.prompt.row["length"] == name]
        assert figures["mean"] == pytest.approx(sum(own) / len(own))


def test_what_moves_it(report, pairs):
    moves = report["moves"]
    assert moves["filler"]["shift"] > 0 and moves["filler"]["rises"] == 1.0
    assert moves["truncation"]["shift"] < 0 and moves["truncation"]["rises"] == 0.0
    # "yes" is one word: half of it is all of it
    assert moves["truncation"]["responses"] == sum(len(p.chosen.split()) > 1 for p in pairs)
    deviation = report["scores"]["std"]
    for figures in moves.values():
        assert figures["shift_in_deviations"] == pytest.approx(figures["shift"] / deviation)
    texts = [p.chosen for p in pairs if p.chosen]
    assert moves["repetition"]["shift"] == pytest.approx(sum(len(t) + 1 for t in texts) / len(texts) / 10, abs=1e-6)


def test_calibration_by_hand():
    figures = calibration([0.0, math.log(3), math.log(3), -math.log(3), 50.0])
    # confidences 0.5 (tie), 0.75 three times (two right), 1.0
    assert [(b["pairs"], b["accuracy"]) for b in figures["bins"]] == [(1, 0.5), (3, 2 / 3), (1, 1.0)]
    assert figures["bins"][1]["confidence"] == pytest.approx(0.75)
    assert figures["bins"][1]["low"] == pytest.approx(0.75)
    assert figures["ece"] == pytest.approx(3 / 5 * (0.75 - 2 / 3))
    assert figures["brier"] == pytest.approx((0.25 + 2 * 0.25**2 + 0.75**2) / 5)
    assert figures["log_loss"] == pytest.approx((math.log(2) + 2 * math.log(4 / 3) + math.log(4)) / 5)


def test_labels_drawn_from_the_scores_are_calibrated():
    random = torch.Generator().manual_seed(0)
    margins = 2 * torch.randn(20000, generator=random)
    flipped = torch.rand(20000, generator=random) > torch.sigmoid(margins)
    honest = calibration(torch.where(flipped, -margins, margins).tolist())
    assert honest["ece"] < 0.02
    assert calibration((3 * torch.where(flipped, -margins, margins)).tolist())["ece"] > 0.08  # too sure
    assert calibration([-1e4, 1e4])["log_loss"] == pytest.approx(5000)


def test_tables_hold_every_figure(report):
    titles = [sheet.title for sheet in sheets(report)]
    assert titles == [
        "Held-out pairs", "Accuracy by length", "Reliability of sigmoid(score difference)", "What moves the score",
    ]  # fmt: skip
    for sheet in sheets(report):
        assert all(len(row) == len(sheet.head) for row in sheet.rows) and sheet.rows
    text = markdown(report)
    assert text.startswith("# Reward model m\n") and "| filler | 7 |" in text
