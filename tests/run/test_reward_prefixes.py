"""The second stage: what it regresses on what, by hand, and what it does to a reward model."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from align.stored.prefix_stage import (
    _trainable,
    every_prefix,
    final_scores,
    prefix_figures,
    regress,
)
from tests.stored.test_reward_model import HELD_OUT, LORA, ON, TRAIN, setting
from transformers import AutoModelForSequenceClassification

from align.config import AdapterConfig, TrainedOn
from align.engine.reference import ValueHead
from align.errors import InputError
from align.models.load import body_of
from align.models.locate import is_adapter
from align.models.reward_folder import linear_head, read_card
from align.run.reward_models import ensure_reward_model, pair_accuracy, reward_model_key
from align.stored.store import key_of
from tests import tiny

PREFIXES = {"trained_on": TrainedOn.prefixes, "prefix_steps": 40, "prefix_learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))


def random_scorer() -> ValueHead:
    model = AutoModelForSequenceClassification.from_pretrained(tiny.reward_folder()).eval()
    return ValueHead(body_of(model), linear_head(model.score.weight), torch.float32)


def by_hand(scorer: ValueHead, pair, response: tuple[int, ...]) -> list[float]:
    """Scores of the first 0..T tokens, one forward each."""
    scores = []
    for t in range(len(response) + 1):
        ids = torch.tensor([[*pair.prompt.input_ids, *response[:t]]])
        with torch.no_grad():
            scores.append(float(scorer(ids, torch.ones_like(ids))[0, -1]))
    return scores


def test_the_scores_of_every_prefix():
    scorer = random_scorer()
    scores, lengths = every_prefix(scorer, tiny.chat(), HELD_OUT[:5])
    for i, (pair, side) in enumerate((p, r) for p in HELD_OUT[:5] for r in (p.chosen_ids, p.rejected_ids)):
        assert int(lengths[i]) == len(side)
        assert scores[i, : len(side) + 1].tolist() == pytest.approx(by_hand(scorer, pair, side), abs=1e-5)
        assert not scores[i, len(side) + 1 :].any()
    finals = final_scores(scorer, tiny.chat(), HELD_OUT[:5])
    assert finals.tolist() == [scores[i, n].item() for i, n in enumerate(lengths.tolist())]


def test_the_first_loss_by_hand():
    """Mean over all prefixes of the minibatch, the empty and the whole one included, of (score - final score)^2."""
    scorer, pairs, lines = random_scorer(), TRAIN[:4], []
    rows = [by_hand(scorer, p, r) for p in pairs for r in (p.chosen_ids, p.rejected_ids)]
    errors = [(s - row[-1]) ** 2 for row in rows for s in row]
    _, source = setting(prefix_steps=1, batch_size=4)
    regress(scorer, tiny.chat(), pairs, source, say=lines.append)
    assert f"squared error {sum(errors) / len(errors):.3f}" in lines[0]


def test_the_target_is_frozen_and_the_bias_stays_0():
    scorer = random_scorer()
    before = final_scores(scorer, tiny.chat(), TRAIN[:16])
    scores, lengths = every_prefix(scorer, tiny.chat(), TRAIN[:16])
    counted = torch.arange(scores.shape[1]) <= lengths.unsqueeze(1)
    untrained = float(((scores - before.unsqueeze(1)) ** 2)[counted].mean())
    _, source = setting(prefix_steps=50, prefix_learning_rate=3e-3, batch_size=16)
    lines: list[str] = []
    regress(scorer, tiny.chat(), TRAIN[:16], source, say=lines.append)
    assert float(lines[-1].rpartition(" ")[2]) < 0.5 * untrained
    assert scorer.head.bias.item() == 0
    after = final_scores(scorer, tiny.chat(), TRAIN[:16])
    assert float(torch.corrcoef(torch.stack([before, after]))[0, 1]) > 0.9
    assert float(after.std()) > 0.5 * float(before.std())  # to collapse would be the other way to agree


def test_the_figures_by_hand():
    """25% of 4 and 8 tokens is 1 and 2 of them; `offset` counts in deviations of the final scores."""
    scorer = random_scorer()
    pairs = [tiny.pair(tiny.prompts(2)[i % 2], "abc" + "d" * i, "xyz") for i in range(4)]
    rows = [by_hand(scorer, p, r) for p in pairs for r in (p.chosen_ids, p.rejected_ids)]
    final = torch.tensor([row[-1] for row in rows], dtype=torch.float64)
    figures = prefix_figures(scorer, tiny.chat(), pairs)
    assert list(figures["correlation"]) == ["0.25", "0.5", "0.75", "0.9", "before_last"]
    for name, fraction in [("0", 0.0), ("0.25", 0.25), ("0.9", 0.9), ("before_last", None)]:
        at = [row[-2] if fraction is None else row[round(fraction * (len(row) - 1))] for row in rows]
        values = torch.tensor(at, dtype=torch.float64)
        offset = (values.mean() - final.mean()) / final.std(unbiased=False)
        assert figures["offset"][name] == pytest.approx(float(offset), abs=1e-4)
        if name != "0":
            expected = float(torch.corrcoef(torch.stack([values, final]))[0, 1])
            assert figures["correlation"][name] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("adapter", [None, LORA])
def test_prefixes_foretell_the_score_and_pairs_are_told_apart_as_before(adapter):
    rate = {} if adapter is None else {"learning_rate": 3e-2, "epochs": 2, "prefix_learning_rate": 3e-2}
    cfg, source = setting(adapter, **(PREFIXES | rate))
    lines: list[str] = []
    folder = ensure_reward_model(cfg, source, tiny.chat(), TRAIN, HELD_OUT, say=lines.append, **ON)
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
    again, _ = _trainable(folder, cfg, tiny.CPU, torch.float32)
    assert pair_accuracy(again, tiny.chat(), HELD_OUT) == pytest.approx(card.accuracy)
    assert prefix_figures(again, tiny.chat(), HELD_OUT)["correlation"] == pytest.approx(after["correlation"], abs=1e-4)
    # Both lie side by side, and neither is made again.
    told = len(lines)
    assert ensure_reward_model(cfg, source, tiny.chat(), TRAIN, HELD_OUT, say=lines.append, **ON) == folder
    assert len(lines) == told and len([p for p in folder.parent.iterdir() if p.is_dir()]) == 2


def test_the_key_of_what_is_stored_already_stays_and_the_new_one_has_its_own():
    """Reward models are looked up by the hash: options that change nothing of a model must not be in it."""

    def settings(**options):
        cfg, source = setting(**options)
        return reward_model_key(cfg, source, TRAIN, HELD_OUT)["settings"]

    old = {"name": "reward_model", "learning_rate": 1e-2, "batch_size": 8, "epochs": 4, "center_coef": 0.01, "seed": 0}
    assert settings() == settings(prefix_steps=7, prefix_learning_rate=1.0) == settings(micro_batch_tokens=64) == old
    new = settings(**PREFIXES)
    assert new == old | {"trained_on": "prefixes", "prefix_steps": 40, "prefix_learning_rate": 1e-2}
    assert json.loads(json.dumps(new)) == new
    keys = [new, settings(**(PREFIXES | {"prefix_steps": 41})), settings(**(PREFIXES | {"prefix_learning_rate": 0.5}))]
    assert len({json.dumps(k) for k in keys}) == 3


def test_another_lora_is_refused(tmp_path):
    cfg, _ = setting(AdapterConfig(name="lora", r=2, alpha=4))
    with pytest.raises(InputError, match=r"adapter: given .*r=4"):
        _trainable(tiny.reward_adapter(), cfg, tiny.CPU, torch.float32)
