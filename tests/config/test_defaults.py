"""One set of defaults: what the command line composes for every option is what the dataclasses hold; YAMLs explain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from align import config as cfg
from align.cli.groups import CONF, groups, options
from align.config.callbacks import CallbacksConfig
from align.config.groups import CREDITS, METHODS, SOURCES
from align.config.io import register_schemas
from align.config.rules import WordLimitRule

PRESETS = {"arm", "data", "experiment", "model"}  # choices for one purpose; their files hold values of their own

REWARDS = {  # source and credit of each preset
    "dense": [(SOURCES, "reward_model"), (CREDITS, "attention")],
    "sparse": [(SOURCES, "reward_model"), (CREDITS, "sparse")],
    "rules": [(SOURCES, "rules"), (CREDITS, "sparse")],
    "function": [(SOURCES, "function"), (CREDITS, "auto")],
    "none": [(SOURCES, "none"), (CREDITS, "none")],
}
# What a group's option stands for, made of the dataclasses alone. Where an option is a name, its key is that name.
HELD: dict[str, Callable[[str], Any]] = {
    "adapter": lambda option: cfg.AdapterConfig(name=option),
    "callbacks": lambda option: callbacks(option),
    "evaluation": lambda option: cfg.EvaluationConfig(),
    "method": lambda option: METHODS[option](),
    "quantization": lambda option: cfg.QuantizationConfig(name=option),
    "reward": lambda option: cfg.RewardConfig(*(group[name]() for group, name in REWARDS[option])),
    "reward/credit": lambda option: CREDITS[option](),
    "reward/source": lambda option: composite() if option == "composite" else SOURCES[option](),
    "rollout": lambda option: cfg.RolloutConfig(),
    "tracking": lambda option: cfg.TrackingConfig(name=option),
}
SECTIONS = {"early_stopping", "jsonl", "progress", "retention", "tensorboard"}


def callbacks(option: str) -> CallbacksConfig:
    """The callbacks of a run that chooses this one: its section is the bare dataclass, all others are as by default."""
    held = CallbacksConfig()
    if option in SECTIONS:
        setattr(held, option, type(getattr(held, option))())
    return held  # callbacks=wandb chooses tracking=wandb instead


def composite() -> cfg.CompositeSource:
    """Its parts are options too, which its file chooses."""
    rules = cfg.RulesSource(word_limit=WordLimitRule(weight=1.0))
    parts: dict[str, cfg.SourceConfig] = {"model": cfg.RewardModelSource(), "rules": rules}
    return cfg.CompositeSource(parts=parts, weights={"model": 1.0, "rules": 1.0})


@pytest.fixture(autouse=True)
def hydra():
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*words: str) -> Any:
    return compose("config", overrides=list(words))


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Every key below `node` with its value, so that what differs is named."""
    content = OmegaConf.to_container(node, enum_to_str=True)
    assert isinstance(content, dict)
    return {f"{prefix}{key}": value for key, value in _leaves(content)}


def _leaves(content: dict[str, Any]):
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield str(key), value


def test_a_new_group_is_walked_too():
    assert PRESETS | set(HELD) == set(groups())
    assert SECTIONS | {"wandb"} == set(options("callbacks"))


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in HELD for option in options(group)])
def test_an_option_is_its_dataclass(group, option):
    beside = ["reward/credit=sparse"] if group == "reward/source" else []
    chosen = f"{group}=[{option}]" if group == "callbacks" else f"{group}={option}"
    section = OmegaConf.select(composed(chosen, *beside), group.replace("/", "."))
    held = OmegaConf.structured(HELD[group](option))
    assert flat(section) == flat(held)
    assert OmegaConf.get_type(section) is OmegaConf.get_type(held)


def test_the_keys_of_the_root_are_the_dataclasss():
    sections = {group.partition("/")[0] for group in groups()}
    whole, held = composed(), OmegaConf.structured(cfg.Config())
    names = [name for name in held if name not in sections]
    assert "checkpoint" in names and "max_steps" in names
    assert flat(OmegaConf.masked_copy(whole, names)) == flat(OmegaConf.masked_copy(held, names))


def test_callbacks_of_a_run_that_chooses_none():
    assert flat(composed("callbacks=[]").callbacks) == flat(OmegaConf.structured(CallbacksConfig()))
    assert flat(composed().callbacks) == flat(OmegaConf.structured(CallbacksConfig()))


@pytest.mark.parametrize("section", [*METHODS.values(), *SOURCES.values(), *CREDITS.values(), cfg.EvaluationConfig])
def test_a_section_inside_a_section_is_the_bare_one(section):
    """Callbacks aside, which are off until they are chosen."""
    inner = [value for value in vars(section()).values() if isinstance(value, cfg.Section)]
    assert all(value == type(value)() for value in inner)
