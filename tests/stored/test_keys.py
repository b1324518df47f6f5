"""Keys of stored models: all that the weights depend on, and nothing that they do not."""

from __future__ import annotations

import json

from align.config import AdapterConfig, GoldSource, ImplicitCredit, RewardConfig, TrainedOn
from align.stored.keys import dpo_policy_key, reward_model_key
from tests import tiny
from tests.run.stages import HELD_OUT, LORA, TRAIN, setting

PREFIXES = {"trained_on": TrainedOn.prefixes, "prefix_steps": 40, "prefix_learning_rate": 1e-2}


def test_a_reward_models():
    def key(train=TRAIN, held_out=HELD_OUT, **options):
        return reward_model_key(*setting(**options), train, held_out)

    base = key()
    assert base == key()
    changes = [
        key(train=TRAIN[1:]),
        key(train=TRAIN[::-1]),
        key(held_out=HELD_OUT[1:]),
        key(shape="gpt2"),
        key(adapter=LORA),
        key(adapter=AdapterConfig(name="lora", r=8, alpha=8)),
        key(seed=1),
        key(epochs=3),
        key(batch_size=4),
        key(learning_rate=1e-3),
        key(center_coef=0.5),
    ]
    everything = [base, *changes]
    assert all(a != b for i, a in enumerate(everything) for b in everything[:i])
    assert key(reference_responses=7) == base  # the scale is measured by each run
    cfg, options = setting()
    cfg.seed, cfg.max_steps, cfg.method.learning_rate = 5, 99, 0.5
    assert reward_model_key(cfg, options, TRAIN, HELD_OUT) == base  # shared by every run and sweep job


def test_options_that_change_nothing_of_a_reward_model_are_in_no_key():
    """Reward models are looked up by the hash; those of older formats lie under other keys."""

    def settings(**options):
        return reward_model_key(*setting(**options), TRAIN, HELD_OUT)["settings"]

    old = {"name": "reward_model", "learning_rate": 1e-2, "batch_size": 8, "epochs": 4, "center_coef": 0.01, "seed": 0}
    assert settings() == settings(prefix_steps=7, prefix_learning_rate=1.0) == settings(micro_batch_tokens=64) == old
    new = settings(**PREFIXES)
    assert new == old | {"trained_on": "prefixes", "prefix_steps": 40, "prefix_learning_rate": 1e-2}
    assert json.loads(json.dumps(new)) == new
    keys = [new, settings(**(PREFIXES | {"prefix_steps": 41})), settings(**(PREFIXES | {"prefix_learning_rate": 0.5}))]
    assert len({json.dumps(k) for k in keys}) == 3
    assert reward_model_key(*setting(), TRAIN, HELD_OUT)["format"] == 3


def test_a_dpo_policys():
    def key(train=TRAIN, adapter=None, **credit):
        options = ImplicitCredit(**({"learning_rate": 5e-3, "batch_size": 16, "epochs": 2} | credit))
        cfg = tiny.config(adapter=adapter, reward=RewardConfig(source=GoldSource(), credit=options), **root)
        return dpo_policy_key(cfg, options, train, HELD_OUT)

    root: dict[str, int] = {}
    every = [key(), key(train=TRAIN[1:]), key(adapter=LORA)]
    every += [key(seed=1), key(beta=0.5), key(epochs=1), key(batch_size=8), key(learning_rate=1e-4)]
    assert all(a != b for i, a in enumerate(every) for b in every[:i])
    assert key(scale=0.9, clip=0.7) == every[0]  # how it is paid
    root = {"seed": 5, "max_steps": 99}
    assert key() == every[0]
