"""`auto`: numbers that follow from the model, held to what was given beside them, and warned about where far off."""

from __future__ import annotations

import pytest
import torch

from align.cli.compose import composed
from align.config import AttentionCredit, ModelConfig, SpansCredit, SparseCredit, TruthCredit
from align.config.automatic import FAR, RATES, ModelFacts, settle
from align.errors import InputError
from align.metrics import METRICS
from align.models.load import load_causal_lm, model_facts
from align.worlds import resolve
from tests import tiny

WORLD = ModelFacts(world=True, width=128, context=512)
REAL = ModelFacts(world=False, width=576, context=2048)


def settled(*words: str, model: ModelFacts = REAL):
    return settle(composed(list(words)), model)


def test_the_embedded_world_keeps_the_values_that_were_tuned_on_it():
    config = settled("method=ppo", model=WORLD).config
    assert (config.method.rate, config.method.critic_rate) == (3e-4, 1e-3)
    assert (config.reward.source.learning_rate, config.reward.source.prefix_learning_rate) == (1e-4, 1e-3)
    assert config.rollout.new_tokens == 128
    config = settled("method=dpo", "data=jsonl", "data.path=align/worlds/assets/general.jsonl", model=WORLD).config
    assert (config.data.prompt_tokens, config.data.response_tokens) == (512, 512)


@pytest.mark.parametrize("method", ["sft", "dpo", "ppo", "grpo", "trl_dpo", "trl_kto", "trl_grpo", "trl_rloo"])
def test_a_real_models_rate_is_lower_and_loras_ten_times_that_of_all_weights(method):
    credit = "reward=sparse"
    whole = settled(f"method={method}", credit, "adapter=none").config.method.rate
    lora = settled(f"method={method}", credit, "adapter=lora").config.method.rate
    assert lora == pytest.approx(10 * whole) and whole in RATES.values()
    wide = ModelFacts(world=False, width=4 * 576, context=2048)
    wider = settled(f"method={method}", credit, "adapter=none", model=wide).config.method.rate
    assert wider == float(f"{whole / (2 if method == 'sft' else 4):.2g}")


def test_every_stage_has_a_rate_and_what_was_chosen_is_said():
    found = settled("method=ppo", "reward/credit=implicit", "adapter=lora", "reward.source.trained_on=prefixes")
    rates = [key for key in found.chosen if key.endswith("learning_rate")]
    assert rates == [
        "method.learning_rate",
        "method.critic_learning_rate",
        "reward.source.learning_rate",
        "reward.source.prefix_learning_rate",
        "reward.credit.learning_rate",
    ]
    assert found.lines()[0].startswith("auto: method.learning_rate=5e-05, ") and not found.warnings
    assert "reward.source.prefix_learning_rate" not in settled("method=ppo").chosen  # no such stage


def test_the_members_of_a_sum_and_an_ensemble_are_settled_too():
    config = settled("reward/source=composite", "reward/credit=sparse").config
    assert config.reward.source.parts["model"].learning_rate == RATES["reward_model"]
    config = settled("reward/source=ensemble", "reward/credit=sparse").config
    assert {model.learning_rate for model in config.reward.source.models()} == {RATES["reward_model"]}


def test_a_given_rate_stays_and_is_warned_about_when_far_above_the_rule():
    rule = RATES["dpo"]
    near = settled("method=dpo", "adapter=none", f"method.learning_rate={FAR * rule}")
    assert near.config.method.rate == FAR * rule and "method.learning_rate" not in near.chosen and not near.warnings
    (line,) = settled("method=dpo", "adapter=none", f"method.learning_rate={60 * rule}").warnings
    assert line.startswith("method.learning_rate=0.0012 is 60 times the rule for this model (all weights: 2e-05)")
    assert not settled("method=dpo", "method.learning_rate=1", model=WORLD).warnings


@pytest.mark.parametrize("given", ["atuo", "0", "-1", "nan", "true", "[1]"])
def test_what_is_no_rate_is_refused(given):
    with pytest.raises(InputError, match=r"method\.learning_rate: .*auto, or a number above 0"):
        composed(["method=dpo", f"method.learning_rate={given}"])


OWN = ["method=dpo", "data=jsonl", "data.path=align/worlds/assets/general.jsonl"]


@pytest.mark.parametrize(
    ("context", "words", "lengths"),
    [
        (8192, [], (1024, 1024, 256)),
        (None, [], (1024, 1024, 256)),
        (1024, [], (512, 512, 256)),
        (512, [], (256, 256, 256)),
        (300, [], (150, 150, 150)),
        (512, ["data.max_prompt_tokens=400"], (400, 112, 112)),
        (512, ["data.max_response_tokens=400"], (112, 400, 256)),
        (512, ["rollout.max_new_tokens=64"], (256, 256, 64)),
        (512, ["data.max_response_tokens=64", "rollout.max_new_tokens=64"], (448, 64, 64)),
    ],
)
def test_prompt_and_response_fit_the_context_beside_each_other(context, words, lengths):
    config = settled(*OWN, *words, model=ModelFacts(False, 576, context)).config
    found = (config.data.prompt_tokens, config.data.response_tokens, config.rollout.new_tokens)
    assert found == lengths
    if context is not None:
        assert found[0] + max(found[1:]) <= context


def test_a_length_that_leaves_the_context_no_room_is_refused():
    with pytest.raises(InputError, match=r"data\.max_prompt_tokens: given 512; allowed: fewer than the 512 tokens"):
        settled(*OWN, "data.max_prompt_tokens=512", model=ModelFacts(False, 576, 512))


@pytest.mark.parametrize(
    ("words", "scheme"),
    [
        (["reward/source=rules", "reward.source.word_limit.limit=5"], SparseCredit),
        (["reward=function", "reward.source.path=tests/config/test_automatic.py:settled"], SparseCredit),
        (["reward=function", "reward.source.path=tests/config/test_automatic.py:settled",
          "reward.source.returns=spans"], SpansCredit),
        (["reward/source=gold"], TruthCredit),
        (["reward/source=composite"], SparseCredit),
    ],
)  # fmt: skip
def test_automatic_credit_pays_what_the_source_gives(words, scheme):
    config = settled("method=ppo", "reward/credit=auto", *words, model=WORLD).config
    assert type(config.reward.credit) is scheme
    assert type(settled("method=ppo").config.reward.credit) is AttentionCredit


def test_what_was_settled_is_frozen_as_the_configuration_was_and_leaves_it_alone():
    config = composed(["method=dpo"])
    found = settle(config, REAL).config
    assert config.method.learning_rate == "auto" and found.frozen and found.method.frozen
    config.thaw()
    assert not settle(config, REAL).config.frozen


def test_the_embedded_model_is_known_by_its_dimensions_wherever_it_lies(tmp_path):
    assert model_facts(ModelConfig(path="align://pocket/model")).world
    load_causal_lm(
        ModelConfig(path=resolve("align://pocket/model")), dtype=torch.float32, device=tiny.CPU
    ).save_pretrained(tmp_path)
    assert model_facts(ModelConfig(path=str(tmp_path))).world
    facts = model_facts(ModelConfig(path=str(tiny.folder())))
    assert not facts.world and facts.width == 24


@pytest.mark.parametrize(("model", "text"), [(WORLD, "align://pocket/general.jsonl"), (REAL, "align://general.jsonl")])
def test_general_text_follows_the_model_and_not_the_data(model, text):
    assert settled("data=pocket", model=model).config.evaluation.general_text == text
    assert settled("evaluation.general_text=own/texts", model=model).config.evaluation.general_text == "own/texts"


def test_the_judges_rate_is_settled_where_one_is_trained_and_nowhere_else():
    found = settled("method=dpo", "adapter=lora", "evaluation.reward_model=train")
    assert found.chosen["evaluation.judge.learning_rate"] == pytest.approx(10 * RATES["reward_model"])
    assert found.config.evaluation.judge.source().learning_rate == found.chosen["evaluation.judge.learning_rate"]
    assert "evaluation.judge.learning_rate" not in settled("method=dpo").chosen
    far = ["method=dpo", "adapter=none", "evaluation.reward_model=train", "evaluation.judge.learning_rate=1e-2"]
    (line,) = settled(*far).warnings
    assert line.startswith("evaluation.judge.learning_rate=0.01 is 1000 times the rule")


@pytest.mark.parametrize(
    ("method", "best", "lowest"),
    [
        ("ppo", "eval/reward/proxy_mean", False),
        ("dpo", "eval/preference/log_ratio/accuracy", False),
        ("sft", "eval/preference/perplexity_chosen", True),
    ],
)
def test_the_best_checkpoint_is_kept_by_the_methods_objective(method, best, lowest):
    kept = settled("callbacks=retention", f"method={method}", "evaluation.every_steps=20").config.callbacks.retention
    assert (kept.best, kept.lowest) == (best, lowest) and best in METRICS
    given = ("callbacks=retention", "evaluation.every_steps=20", "callbacks.retention.best=eval/kl_per_response")
    assert settled(*given).config.callbacks.retention.best == "eval/kl_per_response"


def test_an_evaluation_alone_names_no_number_of_a_training():
    found = settled("method=sft")
    assert any("method.learning_rate" in line for line in found.lines())
    assert not any("method." in line for line in found.lines(trains=False))
