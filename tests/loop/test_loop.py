"""The loop that every method shares: counting, evaluations, checkpoints, records."""

import dataclasses

import pytest

from align.algorithms.registry import ALGORITHMS, algorithm_class
from align.config.groups import METHODS
from align.errors import InputError
from align.loop.checkpoint import CheckpointWriter, checkpoints, prune, read_tensors
from tests import tiny


def test_evaluations_and_checkpoints_come_at_their_steps(tmp_path):
    cfg = tiny.config(max_steps=6, checkpoint_every=2)
    cfg.evaluation.every_steps, cfg.checkpoint.keep = 3, 2
    made, seen = tiny.loop(tmp_path, cfg)
    asked: list[int] = []
    made.run = dataclasses.replace(made.run, evaluate=asked.append)
    made.train()
    assert [r["step"] for r in seen.records] == [1, 2, 3, 4, 5, 6]
    assert asked == [3]  # the one after training is not the loop's
    assert [step for step, _ in seen.checkpoints] == [2, 4, 6]
    assert [step for step, _ in checkpoints(tmp_path, "ppo")] == [4, 6]


def test_a_checkpoint_at_the_end_without_any_on_the_way(tmp_path):
    made, seen = tiny.loop(tmp_path, tiny.config(max_steps=3))
    made.train()
    assert [step for step, _ in seen.checkpoints] == [3]


def test_records_count_tokens_and_time(tmp_path):
    made, seen = tiny.loop(tmp_path, tiny.config(max_steps=4))
    made.train()
    seconds = seen.column("seconds")
    assert seconds == sorted(seconds)
    assert sum(seen.column("time/total")) == pytest.approx(seconds[-1])
    assert [(r["rollout"], r["update"]) for r in seen.records] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    tokens = seen.column("tokens/policy")
    assert tokens[-1] == made.progress.tokens and tokens == sorted(tokens)
    again, _ = tiny.loop(tmp_path, tiny.config())
    first = again.algorithm.collect(again.progress).rollout
    assert tokens[1] == int(first.attention_mask.sum())  # prompts and responses, no padding, each once


def test_half_a_checkpoint_is_none(tmp_path):
    writer = CheckpointWriter(tmp_path, "ppo", 3)
    writer.tensors("optimizer", {"x": tiny.torch.ones(2)})
    assert checkpoints(tmp_path, "ppo") == []
    whole = writer.commit({"progress": {}})
    (tmp_path / "ppo_step_7").mkdir()  # no state
    (tmp_path / "grpo_step_9").mkdir()
    assert checkpoints(tmp_path, "ppo") == [(3, whole)]
    assert read_tensors(whole, "optimizer")["x"].tolist() == [1, 1]
    assert read_tensors(whole, "absent") == {}


def test_checkpoints_are_ordered_by_number_and_the_newest_stay(tmp_path):
    for step in (9, 100, 20):
        CheckpointWriter(tmp_path, "ppo", step).commit({})
    assert [s for s, _ in checkpoints(tmp_path, "ppo")] == [9, 20, 100]
    prune(tmp_path, "ppo", 2)
    assert [s for s, _ in checkpoints(tmp_path, "ppo")] == [20, 100]


def test_every_method_of_the_registry_loads():
    assert set(METHODS) == set(ALGORITHMS)
    for name, options in METHODS.items():
        assert options().name == name
        assert isinstance(algorithm_class(name), type)
    with pytest.raises(InputError, match="method"):
        algorithm_class("pppo")
