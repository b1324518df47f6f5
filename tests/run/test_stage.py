"""Trainings of stored models that are killed or fail, and go on inside themselves."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from align.callbacks.base import Callback
from align.callbacks.jsonl import LOG_HISTORY
from align.config import GoldSource, ImplicitCredit, RewardConfig, TrainedOn
from align.metrics import repeatable
from align.run import reward_models, stage
from align.run.dpo_policies import ensure_dpo_policy
from align.run.reward_models import ensure_reward_model
from align.run.stage import RECORDS
from align.store import TRAINING
from tests import tiny
from tests.algorithms import runs
from tests.run import stages
from tests.run.stages import HELD_OUT, LORA, TRAIN, setting

STEPS = 40
PARTIAL = ".*.partial"


def records(folder: Path) -> list[dict[str, Any]]:
    return [repeatable(record) for record in runs.lines(folder / RECORDS)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{p.name} {k}": v for p in folder.glob("*.safetensors") for k, v in load_file(p).items()}


def assert_equal(folder: Path, other: Path, steps: int) -> None:
    """In all records and all weights, bit for bit, and in the files there are."""
    assert [r["step"] for r in records(folder)] == list(range(1, steps + 1))
    assert records(folder) == records(other)
    a, b = tensors(folder), tensors(other)
    assert len(a) > 1 and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert {p.name for p in folder.iterdir()} == {p.name for p in other.iterdir()}


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


def command(data: Path, folder: Path) -> list[str]:
    small = "evaluation.num_prompts=4 evaluation.num_pairs=4 evaluation.num_texts=2 rollout.max_new_tokens=8"
    words = [
        "method=reward_model reward=sparse data=jsonl model=local device=cpu precision=fp32 threads=1",
        f"model.path={tiny.folder()} data.path={data / 'train.jsonl'} data.held_out_path={data / 'held_out.jsonl'}",
        f"evaluation.general_text={data / 'general.jsonl'} checkpoint.every_steps=2 hydra.run.dir={folder} {small}",
        f"reward.source.batch_size=8 reward.source.epochs={STEPS // 2} reward.source.learning_rate=1e-3",
    ]
    return [sys.executable, "-m", "align", *" ".join(words).split()]


def start(data: Path, folder: Path, home: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"ALIGN_HOME": str(home), "ALIGN_TRACEBACK": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(data, folder), env=environment, **pipes)


def stored(home: Path) -> Path:
    (folder,) = (p for p in (home / "reward_models").iterdir() if p.is_dir() and not p.name.startswith("."))
    return folder


@pytest.mark.slow
def test_a_killed_training_goes_on_inside_itself(tmp_path):
    data = runs.write_data(tmp_path / "data")
    whole = start(data, tmp_path / "whole", tmp_path / "home")
    _, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    process = start(data, tmp_path / "cut", tmp_path / "cut_home")
    deadline, log = time.monotonic() + 240, f"reward_models/{PARTIAL}/{TRAINING}/{LOG_HISTORY}"
    while not any(p.read_bytes().count(b"\n") >= 5 for p in (tmp_path / "cut_home").glob(log)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (partial,) = (tmp_path / "cut_home" / "reward_models").glob(PARTIAL)
    kept = [int(p.name.rpartition("_")[2]) for p in (partial / TRAINING).glob("reward_model_step_*")]
    assert kept and max(kept) < STEPS, "killed too late"
    again = start(data, tmp_path / "again", tmp_path / "cut_home")
    _, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert f"going on after update {max(kept)}" in error and "starting over" not in error
    assert_equal(stored(tmp_path / "cut_home"), stored(tmp_path / "home"), STEPS)


# --- failures within a process ----------------------------------------------------------------------------------------


class Interrupt(Callback):
    """Ctrl-C at the record of one update."""

    def on_step(self, record: Mapping[str, Any]) -> None:
        if record["step"] == 7:
            raise KeyboardInterrupt


def reward(adapter, **source) -> Callable[[Callable[[str], None]], Path]:
    cfg, options = setting(adapter, **({"epochs": 1} | source))
    cfg.checkpoint.every_steps = 2
    return lambda say: ensure_reward_model(stages.stage(None, cfg, TRAIN[:80], HELD_OUT[:8], say=say), options)


def dpo(adapter) -> Callable[[Callable[[str], None]], Path]:
    credit = ImplicitCredit(learning_rate=5e-3, batch_size=8, epochs=1)
    cfg = tiny.config(adapter=adapter, reward=RewardConfig(source=GoldSource(), credit=credit), checkpoint_every=2)
    return lambda say: ensure_dpo_policy(stages.stage(None, cfg, TRAIN[:80], HELD_OUT[:8], say=say), credit)


def interrupted(monkeypatch, ensure) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stage.Stage, "_progress", lambda self: [Interrupt()])
        with pytest.raises(KeyboardInterrupt):
            ensure(lambda line: None)


PREFIXES = {"trained_on": TrainedOn.prefixes, "prefix_steps": 10, "prefix_learning_rate": 1e-3}
KINDS = {
    "reward model": reward,
    "prefixes": lambda adapter: reward(adapter, **PREFIXES),
    "DPO policy": dpo,
}


@pytest.mark.parametrize("adapter", [None, LORA], ids=["none", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_goes_on_inside_itself(kind, adapter, tmp_path, monkeypatch):
    ensure = KINDS[kind](adapter)
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "whole"))
    whole = ensure(lambda line: None)
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "cut"))
    if kind == "prefixes":
        reward(adapter)(lambda line: None)  # the first stage, whole
    interrupted(monkeypatch, ensure)
    lines: list[str] = []
    folder = ensure(lines.append)
    assert any("going on after update 6" in line for line in lines)
    assert_equal(folder, whole, 10)


@pytest.mark.parametrize("changed", ["threads", "device"])
def test_another_machine_starts_over(changed, tmp_path, monkeypatch):
    """Its sums would be rounded otherwise than those that the training began with."""
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "whole"))
    whole = reward(None)(lambda line: None)
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "cut"))
    torch.set_num_threads(2 if changed == "threads" else 1)
    try:
        interrupted(monkeypatch, reward(None))
    finally:
        torch.set_num_threads(1)
    if changed == "device":
        (noted,) = (tmp_path / "cut").glob(f"reward_models/{PARTIAL}/{TRAINING}/machine.json")
        noted.write_text(noted.read_text().replace('"cpu"', '"cuda"'))
    lines: list[str] = []
    folder = reward(None)(lines.append)
    had = '"threads": 2' if changed == "threads" else '"device": "cuda"'
    assert any("starting over" in line and had in line for line in lines)
    assert not any("going on" in line for line in lines)
    assert_equal(folder, whole, 10)


def test_a_failure_while_it_is_measured_costs_no_training(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path))

    def fail(*_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reward_models, "pair_accuracy", fail)
        with pytest.raises(KeyboardInterrupt):
            reward(None)(lambda line: None)
    (partial,) = (tmp_path / "reward_models").glob(PARTIAL)
    trained = (partial / TRAINING / LOG_HISTORY).read_text()
    folder = reward(None)(lambda line: None)
    assert (folder / RECORDS).read_text() == trained and len(trained.splitlines()) == 10  # times and all


def test_options_of_the_run_do_not_reach_the_stage(tmp_path):
    """Neither its length, its evaluations, nor what it resumes."""
    cfg, source = setting()
    cfg = dataclasses.replace(cfg, max_steps=3, max_policy_tokens=100, resume="somewhere", seed=7)
    cfg.evaluation.every_steps = 1
    own = stages.stage(tmp_path, cfg, held_out=[])
    made = own.configured(reward_models._method("reward_model", source, 1e-3, 0), steps=9, seed=2)
    assert (made.max_steps, made.seed, made.max_policy_tokens, made.resume) == (9, 2, None, None)
    assert made.evaluation.every_steps == 0 and cfg.evaluation.every_steps == 1
