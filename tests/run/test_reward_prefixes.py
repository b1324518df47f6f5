"""The second stage: what it regresses on what, by hand, and what it does to a reward model."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from align import metrics
from align.config import TrainedOn
from align.models.locate import is_adapter
from align.models.reward_folder import read_card, read_head
from align.rewards.pairs import final_scores, pair_accuracy, prefix_figures, prefix_scores
from align.run.reward_models import ensure_reward_model, train_reward_model
from align.run.stage import RECORDS
from align.store import key_of
from align.stored.keys import reward_model_key
from tests import tiny
from tests.algorithms import runs
from tests.run.stages import HELD_OUT, LORA, TRAIN, alone, loaded, setting, stage

PREFIXES = {"trained_on": TrainedOn.prefixes, "prefix_steps": 40, "prefix_learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    cfg, source = setting(epochs=1)
    train_reward_model(stage(folder, cfg), source, {})
    return folder


def second(folder, start, pairs, **source):
    cfg, options = setting(**(PREFIXES | source))
    train_reward_model(stage(folder, cfg, pairs, []), options, {}, start)
    return runs.lines(folder / RECORDS)


@pytest.mark.parametrize("budget", [None, 40])
def test_the_first_loss_by_hand(start, tmp_path, budget):
    """Mean over all prefixes of the minibatch, the empty and the whole one included, of (score - final score)^2."""
    model = loaded(start)
    rows = [
        [alone(model, p, side[:t]) for t in range(len(side) + 1)]
        for p in TRAIN[:4]
        for side in (p.chosen_ids, p.rejected_ids)
    ]
    errors = [(score - row[-1]) ** 2 for row in rows for score in row]
    (record,) = second(tmp_path, start, TRAIN[:4], prefix_steps=1, batch_size=4, micro_batch_tokens=budget)
    assert record["reward_model/prefix_error"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    assert record["reward_model/learning_rate"] == 1e-2
    assert metrics.compare(record, "reward_prefixes") == (set(), set())


def test_the_target_is_frozen_and_the_bias_stays_0(start, tmp_path):
    before = final_scores(loaded(start), tiny.chat(), TRAIN[:16])
    records = second(tmp_path, start, TRAIN[:16], prefix_steps=50, prefix_learning_rate=3e-3, batch_size=16)
    assert len(records) == 50
    assert all(metrics.compare(record, "reward_prefixes") == (set(), set()) for record in records)
    assert records[-1]["reward_model/prefix_error"] < 0.5 * records[0]["reward_model/prefix_error"]
    model = loaded(tmp_path)
    assert read_head(tmp_path).bias.item() == 0
    after = final_scores(model, tiny.chat(), TRAIN[:16])
    assert float(torch.corrcoef(torch.stack([before, after]))[0, 1]) > 0.9
    assert float(after.std()) > 0.5 * float(before.std())  # to collapse would be the other way to agree
    # The last record's error, but for one update, is that of the stored model against the scores of the first.
    scores, lengths = prefix_scores(model, tiny.chat(), TRAIN[:16])
    counted = torch.arange(scores.shape[1]) <= lengths.unsqueeze(1)
    error = float(((scores - before.unsqueeze(1)) ** 2)[counted].mean())
    assert error == pytest.approx(records[-1]["reward_model/prefix_error"], rel=0.05)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
def test_prefixes_foretell_the_score_and_pairs_are_told_apart_as_before(adapter):
    rate = {} if adapter is None else {"learning_rate": 3e-2, "epochs": 2, "prefix_learning_rate": 3e-2}
    cfg, source = setting(adapter, **(PREFIXES | rate))
    lines: list[str] = []
    folder = ensure_reward_model(stage(None, cfg, say=lines.append), source)
    assert is_adapter(folder) == (adapter is not None)
    card = read_card(folder)
    assert card.key == reward_model_key(cfg, source, TRAIN, HELD_OUT)
    at_end = dataclasses.replace(source, trained_on=TrainedOn.end)
    end = read_card(folder.parent / key_of(reward_model_key(cfg, at_end, TRAIN, HELD_OUT)))
    assert end.prefix_scores == {"end": card.prefix_scores["end"]}
    assert card.accuracy > end.accuracy - 0.04 and end.accuracy > 0.9
    before, after = card.prefix_scores["end"], card.prefix_scores["prefixes"]
    assert after["correlation"]["0.5"] > 0.85 and after["correlation"]["0.5"] > before["correlation"]["0.5"]
    assert abs(after["offset"]["0.5"]) < 0.25 and abs(after["offset"]["0"]) < 0.25
    assert any("correlation of prefix scores" in line and "prefixes" in line for line in lines)
    # What is stored scores as what was trained.
    again = loaded(folder)
    assert pair_accuracy(again, tiny.chat(), HELD_OUT) == pytest.approx(card.accuracy)
    assert prefix_figures(again, tiny.chat(), HELD_OUT)["correlation"] == pytest.approx(after["correlation"], abs=1e-4)
    # Both lie side by side, and neither is made again.
    said = len(lines)
    assert ensure_reward_model(stage(None, cfg, say=lines.append), source) == folder
    assert len(lines) == said and len([p for p in folder.parent.iterdir() if p.is_dir()]) == 2
