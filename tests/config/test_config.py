"""Composition, checks across fields, and the saved file; all in this process, without a model."""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from align import config as cfg
from align.algorithms.registry import algorithm_class
from align.cli.groups import CONF, groups, options
from align.cli.resume import changes, resumed_config
from align.config import Config, io
from align.config.groups import CREDITS, METHODS, SOURCES
from align.config.methods import KLController, PPOConfig
from align.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def hydra():
    io.register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture
def files(tmp_path):
    """Overrides that name real local files, so that only the checked value can be wrong."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    pairs, general = tmp_path / "pairs.jsonl", tmp_path / "general.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    general.write_text(json.dumps({"text": "a"}) + "\n")
    return [
        f"model.path={model}",
        f"data.path={pairs}",
        "data.held_out_path=null",
        f"evaluation.general_text={general}",
    ]


@functools.cache
def choose(*options: str) -> DictConfig:
    """The composition of these group options; kept, because composing takes a tenth of a second."""
    return compose("config", overrides=list(options))


def build(*overrides: str) -> Config:
    chosen = [word for word in overrides if word.partition("=")[0] in groups()]
    values = [word for word in overrides if word not in chosen]
    merged = OmegaConf.merge(choose(*chosen), OmegaConf.from_dotlist(values))
    assert isinstance(merged, DictConfig)
    return io.build(merged)


def test_sections_have_the_classes_that_their_options_choose(files):
    config = build(*files, "reward=dense")
    assert type(config.method) is PPOConfig
    assert type(config.reward.source) is cfg.RewardModelSource
    assert config.reward.credit == cfg.AttentionCredit(mix=0.8)
    config = build(*files, "reward/source=gold", "reward/credit=prefix")
    assert (type(config.reward.source), type(config.reward.credit)) == (cfg.GoldSource, cfg.PrefixCredit)


def test_enums_arrive_as_enums(files):
    config = build(*files, "precision=bf16", "method.kl.controller=adaptive", "method.lr_schedule=linear")
    assert config.precision is cfg.Precision.bf16
    assert config.method.kl.controller is KLController.adaptive
    assert config.method.lr_schedule is cfg.LRSchedule.linear


@pytest.mark.parametrize("path", ["seed", "method.gamma", "method.kl.coef", "reward.credit.mix", "tracking.project"])
def test_the_built_configuration_is_frozen_at_every_depth(files, path):
    section = build(*files)
    *parents, name = path.split(".")
    for parent in parents:
        section = getattr(section, parent)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section, name, 1)


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in groups() for option in options(group)])
def test_every_option_composes(group, option):
    composed = compose("config", overrides=[f"{group}={option}"])
    assert set(composed) == {f.name for f in dataclasses.fields(Config)}


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_option_files_are_short_and_begin_by_saying_what_they_are(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 25
    comment = next(line for line in lines if not line.startswith("# @package"))
    assert comment.startswith("# ")
    yaml.safe_load(path.read_text())


def test_each_registered_name_has_an_option_and_the_other_way_round():
    assert options("method") == sorted(METHODS)
    assert options("reward/source") == sorted(SOURCES)
    assert options("reward/credit") == sorted(CREDITS)
    for classes in (METHODS, SOURCES, CREDITS):
        assert {name: schema.name for name, schema in classes.items()} == {name: name for name in classes}


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in groups() for option in options(group)])
def test_no_option_is_called_what_hydra_takes_for_another_type(group, option):
    assert OverridesParser.create().parse_override(f"{group}={option}").value() == option


def test_an_unknown_method_has_no_algorithm():
    with pytest.raises(InputError, match=r"method: given 'nope'; allowed: .*ppo"):
        algorithm_class("nope")


RULES = ("reward/source=rules", "reward/credit=sparse")
COMPOSITE = ("reward/source=composite", "reward/credit=sparse")
WRONG = {
    "max_steps": ["max_steps=0"],
    "threads": ["threads=0"],
    "seed": ["seed=-1"],
    "checkpoint.keep": ["checkpoint.keep=0"],
    "checkpoint.every_steps": ["checkpoint.every_steps=-1"],
    "precision": ["precision=fp16", "device=cpu"],
    "model.path": ["model.path=./nowhere"],
    "model.chat_template": ["model.chat_template=template.jinja"],
    "data.path": ["data.path=nowhere.jsonl"],
    "data.held_out_path": ["data.held_out_path=align://pocket/nothing"],
    "data.held_out_fraction": ["data.held_out_fraction=1.0"],
    "data.max_prompt_tokens": ["data.max_prompt_tokens=0"],
    "data.chosen_column": ["data.chosen_column=rejected"],
    "data.world": ["data.world=nowhere"],
    "adapter.name": ["adapter.name=lara"],
    "adapter.r": ["adapter=lora", "adapter.r=0"],
    "adapter": ["adapter=none", "quantization.name=int8"],
    "quantization.name": ["quantization.name=int3"],
    "rollout.batch_size": ["rollout.batch_size=0"],
    "rollout.temperature": ["rollout.temperature=0"],
    "rollout.decode_batch_size": ["rollout.decode_batch_size=-1"],
    "reward/credit": ["reward/source=gold", "reward/credit=attention"],
    "reward/source": ["reward/source=gold", "reward/credit=sparse", "data.world=null"],
    "reward.credit.mix": ["reward/credit=attention", "reward.credit.mix=1.1"],
    "reward.credit.k": ["reward/credit=prefix", "reward.credit.k=0"],
    "reward.credit.path": ["reward/credit=implicit", "reward.credit.path=./nowhere"],
    "reward.credit.scale": ["reward/credit=implicit", "reward.credit.scale=0"],
    "reward.credit.clip": ["reward/credit=implicit", "reward.credit.clip=-1"],
    "reward.source.path": ["reward.source.path=./nowhere"],
    "reward.source.batch_size": ["reward.source.batch_size=0"],
    "reward.source.clip": ["reward.source.clip=0"],
    "reward.source.trained_on": ["reward.source.trained_on=prefixes", "reward.source.path=org/name"],
    "reward.source.prefix_steps": ["reward.source.prefix_steps=0"],
    "reward.source.members": ["reward/source=ensemble", "reward.source.members=1"],
    "reward.source.penalty": ["reward/source=ensemble", "reward.source.penalty=-1"],
    "reward.source.paths[0]": ["reward/source=ensemble", "reward.source.paths=[./nowhere]"],
    "reward.source.word_limit.limit": [*RULES, "reward.source.word_limit.limit=0"],
    "reward.source.regex.pattern": [*RULES, "reward.source.regex.weight=1", "reward.source.regex.pattern=("],
    "reward.source.forbidden.phrases": [*RULES, "reward.source.forbidden.weight=1"],
    "reward.source.length_window.high": [
        *RULES,
        "reward.source.length_window.weight=1",
        "reward.source.length_window.high=0",
    ],
    "reward.source.numeric.weight": [*RULES, "reward.source.numeric.weight=inf"],
    "reward.source.parts.model.batch_size": [*COMPOSITE, "reward.source.parts.model.batch_size=0"],
    "evaluation.general_text": ["evaluation.general_text=nowhere.jsonl"],
    "evaluation.confidence": ["evaluation.confidence=1"],
    "evaluation.num_prompts": ["evaluation.num_prompts=0"],
    "tracking.name": ["tracking.name=tensorboard"],
    "tracking.project": ["tracking=wandb", "tracking.project=what?"],
    "method.learning_rate": ["method.learning_rate=nan"],
    "method.adam_betas": ["method.adam_betas=[0.9]"],
    "method.warmup_steps": ["method.warmup_steps=10", "max_steps=10"],
    "method.micro_batch_tokens": ["method.micro_batch_tokens=0"],
    "reward.source.micro_batch_tokens": ["reward.source.micro_batch_tokens=0"],
    "method.epochs": ["method.epochs=0"],
    "method.clip_range": ["method.clip_range=0"],
    "method.lam": ["method.lam=1.01"],
    "method.gamma": ["method.gamma=-0.1"],
    "method.minibatch_size": ["method.minibatch_size=48", "rollout.batch_size=64"],
    "method.critic_learning_rate": ["method.critic_learning_rate=inf"],
    "method.critic_warmup_steps": ["method.critic_warmup_steps=100", "max_steps=100"],
    "method.critic_init": ["method.critic_init=reward_model", "reward/source=gold", "reward/credit=sparse"],
    "method.kl.coef": ["method.kl.coef=0", "method.kl.controller=adaptive"],
    "method.kl.budget": ["method.kl.budget=0"],
    "method.target_kl": ["method.target_kl=0"],
}


@pytest.mark.parametrize(("key", "overrides"), WRONG.items(), ids=WRONG)
def test_values_that_cannot_run_are_refused_by_name(files, key, overrides):
    with pytest.raises(InputError) as caught:
        build(*files, *overrides)
    assert caught.value.key == key
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.lam=0"],
        ["method.lam=1"],
        ["method.gamma=1"],
        ["method.kl.coef=0"],
        ["method.minibatch_size=64"],
        ["checkpoint.every_steps=0"],
        ["reward.credit.mix=0"],
        ["method.warmup_steps=9", "max_steps=10"],
        ["precision=fp16", "device=cuda"],
        ["model.path=org/name"],
        ["data.path=org/name"],
    ],
    ids=" ".join,
)
def test_values_at_the_edge_are_accepted(files, overrides):
    build(*files, *overrides)


@pytest.mark.parametrize(("word", "key"), [("model=local", "model.path"), ("data=jsonl", "data.path")])
def test_a_value_without_default_must_be_given(word, key):
    with pytest.raises(InputError, match="given 'nothing'") as caught:
        build(word)
    assert caught.value.key == key


def test_a_key_that_no_schema_has_cannot_be_added():
    with pytest.raises(InputError, match=r"method\.kl\.coeff: given '\+method\.kl\.coeff'; allowed: coef"):
        io.build(compose("config", overrides=["+method.kl.coeff=1"]))


@pytest.mark.parametrize(
    ("name", "value"), [("train_where", "[]"), ("held_out_where", "[[a]]"), ("reward_where", "{a: b}")]
)
def test_rows_are_chosen_by_values(name, value):
    key = f"data.{name}.split"
    with pytest.raises(InputError, match="a value, or a list of values") as caught:
        io.build(compose("config", overrides=[f"++{key}={value}"]))
    assert caught.value.key == key


def test_chosen_rows_are_saved(tmp_path):
    words = ["data.held_out_where.split=tune", "+data.train_where.word_limit=[null,3]"]
    config = io.build(compose("config", overrides=words))
    assert config.data.train_where == {"word_limit": [None, 3]}
    io.save(config, tmp_path / "config.yaml")
    assert io.load(tmp_path / "config.yaml") == config


def test_true_credit_is_the_worlds_alone(files):
    with pytest.raises(InputError, match=r"reward/credit: given 'truth'"):
        build(*files, "reward/source=reward_model", "reward/credit=truth")
    assert build(*files, "reward/source=gold", "reward/credit=truth").reward.credit.name == "truth"
    part = ["reward/source=composite", "+reward/source@reward.source.parts.gold=gold", "reward/credit=truth"]
    assert io.build(compose("config", overrides=part)).reward.credit.name == "truth"
    with pytest.raises(InputError, match=r"reward/credit: given 'truth'"):
        io.build(compose("config", overrides=[*part, "+reward.source.weights.gold=0"]))


def test_a_dpo_policy_of_the_hub_is_refused_at_once(files):
    with pytest.raises(InputError, match=r"reward\.credit\.path: given 'someone/policy'; allowed: a folder on this"):
        build(*files, "reward/credit=implicit", "reward.credit.path=someone/policy")


def test_a_folder_that_is_no_model_is_refused(files, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError) as caught:
        build(*files, f"model.path={folder}")
    assert caught.value.key == "model.path"
    (folder / "adapter_config.json").write_text("{}")
    build(*files, f"model.path={folder}")


def test_the_home_folder_is_found_behind_a_tilde(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = build(*files, "model.path=~/model")
    assert config.model.path == str(tmp_path / "model")


@pytest.fixture
def big_model(tmp_path):
    """A model option that chooses LoRA, in a folder of the user's own."""
    (tmp_path / "model").mkdir(exist_ok=True)
    text = "defaults: [override /adapter@_global_.adapter: lora, _self_]\npath: org/big\n"
    (tmp_path / "model" / "big.yaml").write_text(text)
    return [f"hydra.searchpath=[file://{tmp_path}]", "model=big"]


@pytest.mark.parametrize(("words", "adapter"), [([], "lora"), (["adapter=none"], "none"), (["adapter=lora"], "lora")])
def test_a_model_may_choose_its_adapter_and_the_user_has_the_last_word(big_model, words, adapter):
    assert compose("config", overrides=[*big_model, *words]).adapter.name == adapter


def test_a_saved_configuration_loads_as_it_was(files, tmp_path):
    config = build(*files, "reward/source=gold", "reward/credit=uniform", "method.kl.budget=2.5", "tracking.tags=[a,b]")
    path = tmp_path / "config.yaml"
    io.save(config, path, "align reward/source=gold\n-m")
    assert path.read_text().splitlines()[0] == "# align reward/source=gold -m"
    assert io.load(path) == config
    assert type(io.load(path).reward.source) is cfg.GoldSource


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("name: ppo", "name: qqq", "method.name"),
        ("gamma:", "gama:", "gama"),
        ("gamma: 1.0", "gamma: one", "one"),
        ("seed: 0", "seed: [", "config.yaml"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(files, tmp_path, old, new, part):
    path = tmp_path / "config.yaml"
    io.save(build(*files), path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=part) as caught:
        io.load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        io.load(tmp_path / "config.yaml")


def changed(*words: str) -> dict[str, object]:
    return changes(compose("config", overrides=list(words)), words)


def test_a_resumed_run_keeps_what_it_saved_but_for_the_free_keys(files, tmp_path):
    saved = build(*files, "seed=7", "max_steps=40", "method.gamma=0.9")
    io.save(saved, tmp_path / "config.yaml")
    words = [f"resume={tmp_path}", "max_steps=60", "checkpoint.keep=5", "tracking=wandb", "tracking.mode=offline"]
    config = resumed_config(tmp_path, changed(*words))
    expected = build(*files, "seed=7", "method.gamma=0.9", *words)
    assert config == expected
    assert config.tracking.name == "wandb"
    assert config.tracking.mode is cfg.TrackingMode.offline


def test_one_tracking_key_leaves_the_others_as_saved(files, tmp_path):
    io.save(build(*files, "tracking.project=mine"), tmp_path / "config.yaml")
    config = resumed_config(tmp_path, changed(f"resume={tmp_path}", "tracking.group=g"))
    assert (config.tracking.project, config.tracking.group) == ("mine", "g")


@pytest.mark.parametrize(
    "word", ["seed=1", "method.gamma=1.0", "reward=sparse", "checkpoint.every_steps=3", "~tracking"]
)
def test_anything_else_cannot_change_on_resume(word):
    with pytest.raises(InputError, match=r"max_steps, max_policy_tokens, checkpoint\.keep"):
        changes(compose("config"), ["resume=x", word])


def test_a_resumed_run_cannot_get_shorter(files, tmp_path):
    io.save(build(*files, "max_steps=40"), tmp_path / "config.yaml")
    with pytest.raises(InputError, match="max_steps: given 39"):
        resumed_config(tmp_path, {"max_steps": 39})
    with pytest.raises(InputError, match="seed"):
        resumed_config(tmp_path, {"seed": 1})
    with pytest.raises(InputError, match="max_policy_tokens: given 900; allowed: null, as in the run"):
        resumed_config(tmp_path, {"max_policy_tokens": 900})
    io.save(build(*files, "max_policy_tokens=1000"), tmp_path / "config.yaml")
    with pytest.raises(InputError, match="max_policy_tokens: given 900; allowed: the run's own 1000, or more"):
        resumed_config(tmp_path, {"max_policy_tokens": 900})
    for more in (2000, None):
        assert resumed_config(tmp_path, {"max_policy_tokens": more}).max_policy_tokens == more


def test_every_package_is_shipped():
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "align").rglob("__init__.py")]
    assert sorted(shipped) == sorted([*found, "align.conf"])


def test_a_saved_composite_comes_back_with_the_classes_of_its_parts(files, tmp_path):
    config = build(*files, *COMPOSITE, "reward.source.parts.rules.normalise=running", "reward.source.weights.model=2")
    io.save(config, tmp_path / "config.yaml", "align")
    again = io.load(tmp_path / "config.yaml")
    assert again == config
    assert {name: type(part) for name, part in again.reward.source.parts.items()} == {
        "model": cfg.RewardModelSource,
        "rules": cfg.RulesSource,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.reward.source.parts["rules"].clip = 1.0


def test_a_part_is_added_on_the_command_line():
    words = ["reward/source=composite", "+reward/source@reward.source.parts.second=rules", "reward/credit=sparse"]
    words += ["reward.source.parts.second.regex.pattern=a"]
    source = io.build(compose("config", overrides=words)).reward.source
    assert list(source.parts) == ["model", "rules", "second"] and type(source.parts["second"]) is cfg.RulesSource
    assert [type(model) for model in source.models()] == [cfg.RewardModelSource]


def test_a_project_with_its_owner_names_the_keys_of_both(files):
    with pytest.raises(InputError, match=r"tracking\.entity=a tracking\.project=b"):
        build(*files, "tracking=wandb", "tracking.project=a/b")
