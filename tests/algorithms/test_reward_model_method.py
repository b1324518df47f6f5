"""`method=reward_model`: trained once, measured, left in model/, and usable from there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from align.config import GoldSource, RewardModelSource
from align.config.methods import BestOfNConfig, RewardModelMethodConfig
from align.data.preferences import load_preferences
from align.errors import InputError
from align.models.locate import HEAD
from align.run.runner import run
from align.run.stage import RECORDS
from tests import tiny
from tests.algorithms import runs
from tests.run.stages import alone, loaded

QUICK = {"learning_rate": 3e-3, "epochs": 6, "batch_size": 8, "reference_responses": 8}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Two runs, one after the other: the first trains the reward model, the second finds it."""
    root = tmp_path_factory.mktemp("reward")
    data = runs.write_data(root / "data")
    said: list[list[str]] = [[], []]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_HOME", str(root / "home"))
        for i in range(2):
            cfg = runs.config(RewardModelMethodConfig(), data, source=RewardModelSource(**QUICK))
            run(cfg, root / str(i), say=said[i].append)
    return root, cfg, said


def test_it_is_trained_once_and_measured(made):
    root, _, said = made
    assert [any("training the reward model" in line for line in lines) for lines in said] == [True, False]
    first, second = (json.loads((root / name / "evaluation.json").read_text()) for name in "01")
    assert first["after"]["reward_model"] == second["after"]["reward_model"]
    figures = first["after"]["reward_model"]
    (stored,) = [path for path in (root / "home" / "reward_models").iterdir() if path.is_dir()]
    card = json.loads((stored / "reward_model.json").read_text())
    for name in ("accuracy", "longer_wins", "held_out_pairs", "train_pairs", "seconds"):
        assert figures[name] == card[name], name
    assert (figures["held_out_pairs"], figures["train_pairs"]) == (8, 16)
    assert figures["accuracy"] > 0.9  # vowels against consonants
    assert figures["longer_wins"] == 7 / 8  # six longer, two of equal length count half
    assert first["before"] == {k: v for k, v in first["after"].items() if k != "reward_model"}


def test_the_run_folder_holds_it_and_the_records_say_so(made):
    root, cfg, _ = made
    pairs = load_preferences(cfg.data, tiny.chat()).held_out
    model = loaded(root / "0" / "model")
    right = sum(alone(model, p, p.chosen_ids) > alone(model, p, p.rejected_ids) for p in pairs) / len(pairs)
    summary = json.loads((root / "0" / "evaluation.json").read_text())["after"]
    assert right == summary["reward_model"]["accuracy"]
    last = runs.lines(root / "0" / "log_history.jsonl")[-1]
    assert last["phase"] == "after" and last["eval/reward_model/accuracy"] == right
    names = {path.name for path in (root / "0" / "model").iterdir()}
    assert {"config.json", "model.safetensors", HEAD, "reward_model.json", RECORDS, "README.md"} <= names


def test_the_readme_says_how_to_load_it(made):
    """Its lines of Python, as they stand there, on the folder."""
    folder = made[0] / "0" / "model"
    text = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    start = tiny.prompts(1)[0].input_ids
    names = {"torch": torch, "ids": torch.tensor([start])}
    exec(code.replace("this folder", str(folder)), names)
    scores = names["scores"]
    assert scores.shape == (1, len(start))
    pair = tiny.pair(tiny.prompts(1)[0], "a", "b")
    assert float(scores[0, -1].detach()) == pytest.approx(alone(loaded(folder), pair, ()), abs=1e-5)


def test_another_run_takes_it_from_there(made, tmp_path):
    root, cfg, _ = made
    data = Path(cfg.data.path).parent
    source = RewardModelSource(path=str(root / "0"), reference_responses=8)
    measured = run(runs.config(RewardModelMethodConfig(), data, source=source), tmp_path / "a", say=lambda line: None)
    expected = json.loads((root / "0" / "evaluation.json").read_text())["after"]["reward_model"]["accuracy"]
    assert measured["after"]["reward_model"]["accuracy"] == expected
    best = run(runs.config(BestOfNConfig(n=2), data, source=source), tmp_path / "b", say=lambda line: None)
    assert best["after"]["reward"]["proxy_mean"] > best["before"]["reward"]["proxy_mean"]


def test_the_console_shows_the_accuracy(made, tmp_path, capsys):
    _, cfg, _ = made
    source = RewardModelSource(path=str(tiny.reward_folder()), reference_responses=8)
    data = Path(cfg.data.path).parent
    run(runs.config(RewardModelMethodConfig(), data, source=source), tmp_path, say=lambda line: None)
    out = capsys.readouterr().out
    assert "reward model, held-out accuracy" in out and "the longer response wins" in out


def test_an_adapter_is_stored_as_one(tmp_path):
    data = runs.write_data(tmp_path / "data")
    cfg = runs.config(RewardModelMethodConfig(), data, adapter=runs.LORA)
    run(cfg, tmp_path / "run", say=lambda line: None)
    stored = (tiny.reward_adapter() / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").read_bytes() == stored


def test_a_reward_without_a_model_is_refused(tmp_path):
    cfg = runs.config(RewardModelMethodConfig(), tmp_path)
    cfg.reward.source = GoldSource()
    with pytest.raises(InputError, match=r"reward/source: given 'gold'; allowed: reward_model"):
        cfg.method.check(cfg)
