"""Stored reward models of every format, from a folder, a run's folder and the Hub; and what no reward model can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification, LlamaModel, PreTrainedConfig, PreTrainedModel

from align.config import RewardConfig, RewardModelSource, SparseCredit
from align.config.methods import RewardModelMethodConfig
from align.engine.roles import build_roles
from align.errors import InputError
from align.libraries import reason
from align.models.load import body_of, is_reward_model, load_causal_lm
from align.models.reward_folder import load_reward_model, read_card
from align.run.reward_models import train_reward_model
from align.run.runner import run
from tests import tiny
from tests.algorithms import runs
from tests.run.stages import HELD_OUT, LORA, ON, TRAIN, alone, loaded, setting, stage

FORMAT_2 = {
    "accuracy": 0.9, "held_out_pairs": 60, "key": {"format": 2, "quantization": "none"}, "longer_wins": 0.4,
    "precision": "float32", "prefix_scores": None, "seconds": 1.5, "train_pairs": 128,
}  # fmt: skip


def format_2(folder: Path, adapter: bool) -> Path:
    """As TRL's RewardTrainer left it: a classifier of transformers, whole or an adapter with `score`, beside a card."""
    shutil.copytree(tiny.reward_adapter() if adapter else tiny.reward_folder(), folder)
    (folder / "reward_model.json").write_text(json.dumps(FORMAT_2))
    return folder


def its_own(folder: Path, adapter: bool) -> PreTrainedModel:
    """The classifier by transformers and peft alone."""
    if not adapter:
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()
    base = AutoModelForSequenceClassification.from_pretrained(tiny.folder(), num_labels=1)
    return PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "adapter"])
def test_format_2_scores_as_before(adapter, tmp_path):
    """Alone, as the reward of a run of its kind, and through `method=reward_model`."""
    folder = format_2(tmp_path / "old", adapter)
    source = RewardModelSource(path=str(folder), reference_responses=8)
    lora = LORA if adapter else None
    config = tiny.config(adapter=lora, reward=RewardConfig(source=source, credit=SparseCredit()))
    source.check(config, "reward.source")
    reward = build_roles(config, reward=folder, critic_init=None, **ON).reward
    model = its_own(folder, adapter)
    for pair in HELD_OUT[:5]:
        with torch.no_grad():
            expected = float(model(torch.tensor([[*pair.prompt.input_ids, *pair.chosen_ids]])).logits)
        assert alone(reward, pair, pair.chosen_ids) == pytest.approx(expected, abs=1e-5)
        assert alone(loaded(folder), pair, pair.chosen_ids) == pytest.approx(expected, abs=1e-5)
    assert read_card(folder).accuracy == 0.9 and is_reward_model(str(folder))
    data = runs.write_data(tmp_path / "data")
    cfg = runs.config(RewardModelMethodConfig(), data, source=source, adapter=lora)
    result = run(cfg, tmp_path / "run", say=lambda line: None)
    assert result["after"]["reward_model"]["train_pairs"] == 128
    assert "load_reward_model" not in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.fixture(scope="module", params=[None, LORA], ids=["whole", "adapter"])
def format_3(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    cfg, source = setting(request.param, epochs=1)
    train_reward_model(stage(folder, cfg, TRAIN[:16], []), source, {})
    return folder


def test_from_a_runs_folder_and_from_the_hub(format_3, hub, tmp_path):
    shutil.copytree(format_3, tmp_path / "model")
    (tmp_path / "run.json").touch()
    name = f"own/reward-{format_3.name}"
    hub.add(name, format_3)
    pair, expected = HELD_OUT[0], alone(loaded(format_3), HELD_OUT[0], HELD_OUT[0].chosen_ids)
    for place in (tmp_path, name):
        assert is_reward_model(str(place))
        assert alone(loaded(place), pair, pair.chosen_ids) == expected
        with pytest.raises(InputError, match=r"^model\.path: .*reward\.source\.path"):
            load_causal_lm(tiny.ModelConfig(path=str(place)), **ON)


def test_a_language_model_is_none(hub):
    hub.add("own/policy", tiny.folder())
    for place in (tiny.folder(), "own/policy"):
        assert not is_reward_model(str(place))
        with pytest.raises(InputError, match=r"^reward\.source\.path: .*sequence classifier") as caught:
            loaded(place)
        assert len(str(caught.value)) < 300


def test_what_transformers_has_no_classifier_for_is_refused_in_a_short_line(tmp_path):
    """A language model whose config.json names no architecture: transformers' own line lists all that it knows."""
    shutil.copytree(tiny.folder("granite"), tmp_path / "granite")
    config = json.loads((tmp_path / "granite" / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "granite" / "config.json").write_text(json.dumps(config | {"num_labels": 1}))
    with pytest.raises(InputError, match=r"^reward\.source\.path: ") as caught:
        load_reward_model(str(tmp_path / "granite"), key="reward.source.path", **ON)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_a_long_reason_is_cut():
    assert len(reason(ValueError("one of " + "SomeConfig, " * 300))) <= 200
    assert reason(ValueError("it is short.\nand goes on")) == "it is short"


class WithoutBody(PreTrainedModel):
    """Layers and head side by side."""

    config_class = PreTrainedConfig
    base_model_prefix = "transformer"

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig())
        self.layer, self.head = nn.Linear(2, 2), nn.Linear(2, 2)


def test_a_model_without_a_body_of_its_own_is_refused():
    assert isinstance(body_of(tiny.causal()), LlamaModel)
    with pytest.raises(InputError, match=r"^model\.path: given 'WithoutBody'") as caught:
        body_of(WithoutBody())
    assert len(str(caught.value)) < 300
