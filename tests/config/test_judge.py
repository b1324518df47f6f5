"""The judge's training has keys of its own, independent of the run's reward, and refused where none is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.cli.compose import composed
from align.cli.evaluate import _saved_by
from align.config import JudgeConfig, RewardModelSource
from align.config.automatic import ModelFacts, settle
from align.config.io import load, save
from align.errors import InputError

TRAINED = ["method=dpo", "evaluation.reward_model=train"]
WORLD = ModelFacts(world=True)


def test_by_default_it_is_trained_as_a_runs_own_reward_model_is_with_another_seed():
    assert JudgeConfig().source() == RewardModelSource(seed=1)


@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_its_settings_are_its_own_with_and_without_a_reward_beside_it(method):
    own = ["epochs=3", "batch_size=8", "learning_rate=1e-3", "center_coef=0", "seed=7", "micro_batch_tokens=64"]
    beside = ["reward.source.epochs=5", "reward.source.trained_on=prefixes"] if method == "ppo" else []
    words = [f"method={method}", "evaluation.reward_model=train", *beside, *(f"evaluation.judge.{key}" for key in own)]
    expected = RewardModelSource(
        epochs=3, batch_size=8, learning_rate=1e-3, center_coef=0.0, seed=7, micro_batch_tokens=64
    )
    assert composed(words).evaluation.judge.source() == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([*TRAINED, "evaluation.judge.learning_rate=-1"], r"judge\.learning_rate: given -1; allowed: auto, or"),
        ([*TRAINED, "evaluation.judge.epochs=0"], r"evaluation\.judge\.epochs: given 0; allowed: a number above 0"),
        ([*TRAINED, "evaluation.judge.seed=-1"], r"evaluation\.judge\.seed: given -1; allowed: 0 or a number above 0"),
        (["evaluation.judge.epochs=3"], r"epochs: given 3; allowed: 2, or evaluation\.reward_model=train: no judge is"),
        (["evaluation.judge.micro_batch_tokens=3"], r"micro_batch_tokens: given 3; allowed: null, or evaluation\."),
        ([*TRAINED, "reward.source.epochs=3"], r"reward/source=none; .*; evaluation\.judge\.epochs is that of"),
    ],
)  # fmt: skip
def test_what_cannot_be_or_has_no_effect_is_refused_by_its_key(words, line):
    with pytest.raises(InputError, match=line):
        composed(words)


def saved(folder: Path, *words: str) -> Path:
    save(settle(composed([*TRAINED, *words]), WORLD).config, folder / "config.yaml", "align")
    return folder


def test_a_saved_run_is_measured_again_with_another_judge_or_none(tmp_path):
    run = saved(tmp_path, "evaluation.judge.epochs=3")
    assert _saved_by(run, ["evaluation.num_prompts=4"]).evaluation.judge.epochs == 3
    assert _saved_by(run, ["evaluation.reward_model=null"]).evaluation.judge == JudgeConfig()
    with pytest.raises(InputError, match=r"evaluation\.judge\.epochs: given 4"):
        _saved_by(run, ["evaluation.reward_model=null", "evaluation.judge.epochs=4"])


def test_a_run_that_was_saved_before_has_the_judge_it_had(tmp_path):
    """Trained by the settings of the run's own reward model then, under the seed after its."""
    words = ["method=ppo", "reward.source.epochs=3", "reward.source.seed=4", "evaluation.reward_model=train"]
    file = tmp_path / "config.yaml"
    save(settle(composed(words), WORLD).config, file, "align")
    text = file.read_text()
    start, end = text.index("  judge:\n"), text.index("  lm_eval:")
    file.write_text(text[:start] + text[end:])
    judge = load(file).evaluation.judge
    assert (judge.epochs, judge.seed, judge.learning_rate) == (3, 5, 1e-4)
