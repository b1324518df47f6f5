"""A run that is stopped and taken up again ends as one that was not: same records, same weights, bit for bit."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from align.config import AdapterConfig, Config, LRSchedule
from align.config.methods import KLController
from align.loop.loop import Loop
from align.metrics import repeatable
from align.rewards import Source
from tests import tiny

LORA = AdapterConfig(name="lora", r=4, alpha=8)


class Noisy(Source):
    """A user's reward that draws from the global generators."""

    def __init__(self) -> None:
        self.inner = tiny.GoldScorer(tiny.VowelWorld())

    def score(self, batch, needs=frozenset()):
        out = self.inner.score(batch, needs)
        noise = 0.1 * torch.rand(len(out.total)) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return dataclasses.replace(out, total=out.total + noise)


def everything(made: Loop) -> dict[str, torch.Tensor]:
    roles = made.run.roles
    return {
        **{f"policy.{k}": v for k, v in roles.policy.model.state_dict().items()},
        **{f"critic.{k}": v for k, v in roles.critic.state_dict().items()},
        **made.updates.optimization.tensors(),
    }


def adaptive(cfg: Config) -> None:
    cfg.method.kl.controller, cfg.method.kl.target, cfg.method.kl.horizon = KLController.adaptive, 0.2, 50


def linear_with_warmup(cfg: Config) -> None:
    cfg.method.lr_schedule, cfg.method.warmup_steps = LRSchedule.linear, 2


def warm_critic(cfg: Config) -> None:
    cfg.method.critic_warmup_steps = 4


def early_stop(cfg: Config) -> None:
    cfg.method.target_kl, cfg.method.epochs, cfg.method.learning_rate = 1e-3, 4, 1e-2


def nothing(cfg: Config) -> None:
    pass


@pytest.mark.parametrize(
    ("stop", "adapter", "change"),
    [
        (3, None, linear_with_warmup),  # in the middle of a rollout's updates
        (3, LORA, adaptive),
        (4, None, adaptive),  # between two rollouts
        (4, LORA, nothing),
        (3, None, warm_critic),  # the policy has no moments yet
        (5, None, early_stop),
    ],
)
def test_resumed_equals_uninterrupted(tmp_path, stop, adapter, change: Callable[[Config], None]):
    def start(folder: Path) -> tuple[Loop, tiny.Recorder]:
        cfg = tiny.config(
            adapter=adapter, max_steps=7, checkpoint_every=stop, method={"epochs": 1, "critic_learning_rate": 3e-3}
        )
        cfg.checkpoint.keep = 9
        change(cfg)
        random.seed(1)
        np.random.seed(1)
        return tiny.loop(folder, cfg, source=Noisy())

    straight, records = start(tmp_path / "straight")
    straight.train()
    again, resumed = start(tmp_path / "again")
    random.seed(99)  # another process
    np.random.seed(99)
    torch.manual_seed(99)
    again.resume(tmp_path / "straight" / f"ppo_step_{stop}")
    assert again.progress.step == stop
    assert again.progress.seconds >= records.records[stop - 1]["seconds"]
    again.train()
    assert [repeatable(r) for r in resumed.records] == [repeatable(r) for r in records.records[stop:]]
    assert resumed.rollouts == records.rollouts[-len(resumed.rollouts) :]
    assert len({r["rollout"] for r in records.records}) > 2
    expected, found = everything(straight), everything(again)
    assert expected.keys() == found.keys() and len(expected) > 50
    assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize("adapter", [None, LORA])
def test_a_checkpoint_holds_safetensors_and_text_and_comes_back(tmp_path, adapter):
    """No pickles: what can be loaded cannot run code. The moments and the rollout in use are there."""
    cfg = tiny.config(adapter=adapter, max_steps=3, checkpoint_every=3)
    made, seen = tiny.loop(tmp_path, cfg)
    made.train()
    ((step, folder),) = seen.checkpoints
    assert (step, folder) == (3, tmp_path / "ppo_step_3")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    weights = "model/adapter_model.safetensors" if adapter else "model/model.safetensors"
    tensors = {"critic.safetensors", "experience.safetensors", "optimizer.safetensors", "rng.safetensors", weights}
    assert tensors | {"state.json", "model/tokenizer.json"} <= files
    assert {Path(f).suffix for f in files} <= {".safetensors", ".json", ".jinja", ".md", ".txt"}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]  # nothing half-written is left
    fresh, _ = tiny.loop(tmp_path, cfg)
    assert not torch.equal(everything(fresh)["critic.head.weight"], everything(made)["critic.head.weight"])
    fresh.resume(folder)
    expected, found = everything(made), everything(fresh)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    for name, value in made.examples.rollout.tensors().items():
        assert torch.equal(fresh.examples.rollout.tensors()[name], value)
    for name, value in made.examples.columns.items():
        assert torch.equal(fresh.examples.columns[name], value)
    assert dataclasses.replace(fresh.progress, seconds=0) == dataclasses.replace(made.progress, seconds=0)


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    cfg = tiny.config(max_steps=2, checkpoint_every=2)
    made, seen = tiny.loop(tmp_path, cfg)
    made.train()
    again, resumed = tiny.loop(tmp_path, cfg)
    again.resume(tmp_path / "ppo_step_2")
    again.train()
    assert not resumed.records and not resumed.checkpoints and len(seen.checkpoints) == 1


def test_more_steps_than_planned(tmp_path):
    """`resume` with a larger max_steps goes on where the run had ended."""
    made, _ = tiny.loop(tmp_path / "a", tiny.config(max_steps=3))
    made.train()
    more, resumed = tiny.loop(tmp_path / "a", tiny.config(max_steps=5))
    more.resume(tmp_path / "a" / "ppo_step_3")
    more.train()
    whole, records = tiny.loop(tmp_path / "b", tiny.config(max_steps=5))
    whole.train()
    assert [repeatable(r) for r in resumed.records] == [repeatable(r) for r in records.records[3:]]


def test_records_of_a_repeated_run_are_equal_and_of_another_seed_not(tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made, seen = tiny.loop(tmp_path / name, tiny.config(max_steps=3, seed=seed))
        made.train()
        runs.append([repeatable(r) for r in seen.records])
    assert runs[0] == runs[1] != runs[2]
