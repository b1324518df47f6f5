"""When a run ends early, by hand and in a real run, also across a resume; which checkpoints stay."""

import json

import pytest

from align.callbacks import CallbackList, RunInfo, default_callbacks
from align.callbacks.early_stopping import EarlyStoppingCallback
from align.callbacks.jsonl import JsonlCallback
from align.callbacks.retention import RetentionCallback
from align.config import CheckpointConfig, EvaluationConfig
from align.config.callbacks import CallbacksConfig, EarlyStoppingConfig, ProgressConfig, RetentionConfig
from align.config.composition import check_all
from align.config.methods import DPOConfig
from align.errors import InputError
from align.loop.checkpoint import checkpoints
from tests import tiny


def stopping(method="ppo", **settings):
    callback = EarlyStoppingCallback(EarlyStoppingConfig(**({"kl_above": None, "reward_drop": None} | settings)))
    callback.on_run_start(RunInfo(None, {}, method, 100, 0, 0))
    return callback


def rollouts(callback, values, name, updates=2):
    """The rollout at which `stop` is set; None where it never is."""
    for i, value in enumerate(values):
        for update in range(updates):
            callback.on_step({"step": i * updates + update, "rollout": i, name: value})
        if callback.stop is not None:
            return i
    return None


def test_kl_above_its_limit_over_the_window():
    callback = stopping(kl_above=2.0, window=2)
    assert rollouts(callback, [0.0, 9.0, 9.0], "kl/per_response_k1") == 1  # (0 + 9) / 2
    assert callback.stop == (
        "KL of 4.500 nats per response, mean of 2 rollouts, is above callbacks.early_stopping.kl_above=2"
    )
    assert rollouts(stopping(kl_above=2.0, window=3), [9.0, 9.0], "kl/per_response_k1") is None  # not yet three
    assert rollouts(stopping(kl_above=2.0, window=1), [2.0, 2.0], "kl/per_response_k1") is None
    assert rollouts(stopping(reward_drop=1.0, window=1), [99.0], "kl/per_response_k1") is None


def test_a_falling_reward_is_measured_from_its_best_mean():
    values = [0.0, 1.0, 1.0, 0.7, 0.4]  # means of two: .5, 1, .85, .55
    assert rollouts(stopping(reward_drop=0.4, window=2), values, "reward/score_mean") == 4
    assert rollouts(stopping(reward_drop=0.5, window=2), values, "reward/score_mean") is None
    assert rollouts(stopping(reward_drop=0.1, window=2), [0.0, 1.0, 2.0], "reward/score_mean") is None


def test_updates_of_a_rollout_and_missing_values_count_once_and_not_at_all():
    assert rollouts(stopping(kl_above=1.0, window=2), [9.0], "kl/per_response_k1", updates=8) is None
    assert rollouts(stopping(kl_above=1.0, window=2), [None, float("nan"), 9.0], "kl/per_response_k1") is None


def test_methods_without_rollouts_are_judged_at_evaluations():
    callback = stopping("dpo", kl_above=1.0, reward_drop=0.2, window=1)
    callback.on_evaluation("during", 10, {"kl_per_response": 0.5, "reward": {"proxy_mean": 0.5}})
    assert callback.stop is None
    callback.on_evaluation("during", 20, {"kl_per_response": 0.5, "reward": {"proxy_mean": 0.2}})
    assert "reward of 0.200, mean of 1 evaluations, has fallen from 0.500" in callback.stop
    on_policy = stopping("ppo", kl_above=1.0, window=1)
    on_policy.on_evaluation("during", 10, {"kl_per_response": 5.0})
    assert on_policy.stop is None  # its rollouts say it


def run(path, max_steps, resume=None, every=4):
    limit = EarlyStoppingConfig(kl_above=1e-4, reward_drop=None, window=2)
    config = tiny.config(
        max_steps=max_steps,
        rollout={"batch_size": 8},
        method={"minibatch_size": 8, "learning_rate": 3e-3},
        checkpoint_every=every,
        callbacks=CallbacksConfig(progress=ProgressConfig(enabled=False), early_stopping=limit),
    )
    trainer, recorder = tiny.loop(path, config)
    callbacks = CallbackList([*default_callbacks(config).callbacks, recorder])
    object.__setattr__(trainer.run, "callbacks", callbacks)
    path.mkdir(exist_ok=True)
    start = 0 if resume is None else resume
    callbacks.on_run_start(RunInfo(path, {}, "ppo", max_steps, start, 0))
    if resume is not None:
        trainer.resume(path / f"ppo_step_{resume}")
    trainer.train()
    callbacks.on_end({})
    return trainer, [record["step"] for record in recorder.records]


def test_a_run_ends_saves_says_why_and_a_resumed_one_ends_alike(tmp_path):
    whole, steps = run(tmp_path / "whole", 12)
    assert "callbacks.early_stopping.kl_above=0.0001" in whole.stopped
    assert 2 <= len(steps) < 12
    assert checkpoints(tmp_path / "whole", "ppo")[-1][0] == steps[-1]
    run(tmp_path / "parts", len(steps) - 1, every=0)  # interrupted a step before
    again, more = run(tmp_path / "parts", 12, resume=len(steps) - 1)
    assert (more, again.stopped) == ([steps[-1]], whole.stopped)


def test_retention_keeps_the_best_and_every_nth(tmp_path):
    def start(step):
        callback = RetentionCallback(RetentionConfig(every=50, best="eval/reward/gold_mean"))
        files = JsonlCallback()
        for one in (files, callback):
            one.on_run_start(RunInfo(tmp_path, {}, "ppo", 100, step, 0))
        return callback, files

    callback, files = start(0)
    for step, gold in ((10, 0.3), (20, 0.5), (30, 0.4), (40, None)):
        summary = {"reward": {"gold_mean": gold}}
        for one in (files, callback):
            one.on_evaluation("during", step, summary)
        (tmp_path / f"ppo_step_{step}").mkdir()
        callback.on_checkpoint(step, tmp_path / f"ppo_step_{step}")
    assert [step for step in (10, 20, 30, 40, 50, 100) if callback.keeps(step)] == [20, 50, 100]
    best = json.loads((tmp_path / "best_checkpoint.json").read_text())
    assert best == {"step": 20, "folder": "ppo_step_20", "metric": "eval/reward/gold_mean", "value": 0.5}
    resumed, _ = start(40)
    assert resumed.keeps(20)
    resumed.on_evaluation("during", 50, {"reward": {"gold_mean": 0.9}})
    assert resumed.keeps(20)  # the checkpoint of step 50 is not there yet
    (tmp_path / "ppo_step_50").mkdir()
    resumed.on_checkpoint(50, tmp_path / "ppo_step_50")
    assert not resumed.keeps(20)


def test_checkpoints_that_a_callback_keeps_are_not_pruned(tmp_path):
    config = tiny.config(
        max_steps=6, checkpoint_every=1, callbacks=CallbacksConfig(retention=RetentionConfig(every=2, best=None))
    )
    config.checkpoint = CheckpointConfig(every_steps=1, keep=1)
    trainer, _ = tiny.loop(tmp_path, config)
    callback = RetentionCallback(config.callbacks.retention)
    callback.on_run_start(RunInfo(tmp_path, {}, "ppo", 6, 0, 0))
    object.__setattr__(trainer.run, "callbacks", CallbackList([callback]))
    trainer.train()
    assert [step for step, _ in checkpoints(tmp_path, "ppo")] == [2, 4, 6]


@pytest.mark.parametrize(
    ("callbacks", "root", "line"),
    [
        ({"early_stopping": EarlyStoppingConfig(kl_above=-1.0)}, {}, r"callbacks\.early_stopping\.kl_above: given -1"),
        ({"early_stopping": EarlyStoppingConfig(window=0)}, {}, r"callbacks\.early_stopping\.window: given 0"),
        (
            {"early_stopping": EarlyStoppingConfig(kl_above=None, reward_drop=1.0)},
            {"method": DPOConfig()},
            r"reward_drop: given 1\.0; allowed: null, or evaluation\.every_steps=N: dpo measures it at eval",
        ),
        ({"retention": RetentionConfig(best="eval/gold")}, {}, r"retention\.best: given 'eval/gold'.*eval/"),
        (
            {"retention": RetentionConfig(best="eval/eos_rate")},
            {},
            r"retention\.best: .*evaluation at every checkpoint",
        ),
        ({"own": {"mine": {"every": 3}}}, {}, r"callbacks\.own\.mine\._target_: given None; allowed: module\.Class"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, callbacks, root, line):
    config = tiny.config(callbacks=CallbacksConfig(**callbacks))
    for name, value in root.items():
        setattr(config, name, value)
    config.data.path = str(tmp_path)
    config.data.world = "pocket"
    with pytest.raises(InputError, match=line):
        check_all(config)


def test_evaluations_make_them_legal(tmp_path):
    settings = CallbacksConfig(
        early_stopping=EarlyStoppingConfig(reward_drop=1.0), retention=RetentionConfig(best="eval/eos_rate")
    )
    config = tiny.config(callbacks=settings, checkpoint_every=20)
    config.data.path, config.data.world = str(tmp_path), "pocket"
    config.method, config.evaluation = DPOConfig(), EvaluationConfig(every_steps=10)
    check_all(config)
