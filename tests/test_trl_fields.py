"""The table of TRL's fields against the installed TRL, transformers and peft, and against align's own keys."""

from __future__ import annotations

import dataclasses

import peft
import pytest
import trl
from trl.scripts.grpo import GRPOScriptArguments
from trl.scripts.utils import DatasetMixtureConfig

from align.cli.compose import composed
from align.cli.trl_fields import COUNTERPARTS, DEFAULTS, LOSS_MARKS, MARKS, TRAINERS
from align.cli.trl_hints import hint, row_of
from align.cli.trl_others import BESIDE, EARLIER, FIXED, LEFT_OUT, WHY_LEFT_OUT
from align.cli.trl_values import SPECIAL
from align.config.io import plain

BESIDE_TRAINERS = (trl.ModelConfig, trl.ScriptArguments, DatasetMixtureConfig)
TABLE = {*COUNTERPARTS, *FIXED, *WHY_LEFT_OUT}
OURS = [(method, trainer) for method, trainer in TRAINERS.items() if trainer is not None]


def fields(*classes):
    return {f.name: f for cls in classes for f in dataclasses.fields(cls)}


def default(field):
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def trainers():
    return {trainer: fields(getattr(trl, trainer)) for _, trainer in OURS}


@pytest.mark.parametrize(("method", "trainer"), OURS)
def test_every_field_is_in_the_table(method, trainer):
    scripts = (*BESIDE_TRAINERS, *((GRPOScriptArguments,) if "num_generations" in trainers()[trainer] else ()))
    every = fields(getattr(trl, trainer), *scripts)
    assert not {name for name in every if not row_of(name, method) and name not in {*FIXED, *WHY_LEFT_OUT}}
    unlike = {name for name, field in every.items() if not row_of(name, method) and name in FIXED and
              default(field) not in FIXED[name].same}  # fmt: skip
    assert unlike == ({"warmup_steps"} if method == "reward_model" else set())  # TRL's has no warm-up; it is said


def test_no_entry_is_stale():
    every = fields(*(getattr(trl, trainer) for _, trainer in OURS), *BESIDE_TRAINERS, GRPOScriptArguments)
    assert TABLE - set(every) - EARLIER - BESIDE - set(fields(peft.LoraConfig)) == set()
    assert not EARLIER & set(every) and EARLIER <= TABLE  # what came back, or was never there
    assert set(SPECIAL) <= set(COUNTERPARTS)
    assert not set(WHY_LEFT_OUT) & {*FIXED, *COUNTERPARTS}
    assert sum(len(names.split()) for names in LEFT_OUT.values()) == len(WHY_LEFT_OUT)


@pytest.mark.parametrize("method", TRAINERS)
def test_every_counterpart_is_a_key_of_align(method):
    config = plain(composed([f"method={method}", "reward=sparse"]))
    for name in COUNTERPARTS:
        row = row_of(name, method)
        if row is not None and row.key != "hydra.run.dir":
            node = config
            for part in row.key.split("."):
                assert part in node, (name, row.key)
                node = node[part]


def test_defaults_are_trls():
    for name, values in DEFAULTS.items():
        for method, value in values.items():
            every = fields(getattr(trl, TRAINERS[method]), *BESIDE_TRAINERS, GRPOScriptArguments)
            assert default(every[name]) == value, (name, method)


def test_marks_are_of_one_trainer_alone():
    for name, method in MARKS.items():
        assert [trainer for trainer, own in trainers().items() if name in own] == [TRAINERS[method]], name
    for name, method in LOSS_MARKS.items():
        assert method in ("sft", "dpo", "trl_kto", "grpo"), name


def test_hints_name_the_counterpart_of_the_method():
    assert hint("per_device_train_batch_size", "dpo") == (
        "method.batch_size (pairs per update), TRL's per_device_train_batch_size times gradient_accumulation_steps"
    )
    assert hint("beta", "grpo") == "method.kl.coef, TRL's beta"
    assert hint("num_generations", "dpo").startswith("method.group_size with method=grpo")
    assert hint("use_vllm", None) == "nothing for TRL's use_vllm: align samples itself"
    assert hint("gama", "ppo") is None
