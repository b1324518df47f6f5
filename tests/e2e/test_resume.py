"""A run that is killed and resumed leaves what an uninterrupted one leaves, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from align.metrics import repeatable

# Two updates a rollout and a checkpoint every 3: the one at step 3 lies in the middle of a rollout's updates.
RUN = (
    "method=ppo",
    "reward=dense",
    "max_steps=10",
    "rollout.batch_size=16",
    "method.minibatch_size=8",
    "rollout.max_new_tokens=32",
    "checkpoint.every_steps=3",
    "checkpoint.keep=9",
    "evaluation.num_prompts=8",
    "evaluation.num_pairs=8",
    "evaluation.num_texts=4",
    "threads=1",
)


pytestmark = pytest.mark.slow


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "align", *words, f"hydra.run.dir={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"ALIGN_TRACEBACK": "1"},
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()


def records(folder: Path, name: str) -> list[dict]:
    return [repeatable(json.loads(line)) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("resume")
    whole, cut = root / "whole", root / "cut"
    finish(start(whole, *RUN))
    process = start(cut, *RUN)
    metrics = cut / "ppo_metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 5):  # past the checkpoint of step 3
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1].decode()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = sorted(p.name for p in cut.glob("ppo_step_*"))
    assert kept and "ppo_step_9" not in kept, f"killed too late: {kept}"
    finish(start(cut, f"resume={cut}"))
    return whole, cut


@pytest.mark.parametrize("name", ["ppo_metrics.jsonl", "log_history.jsonl", "completions.jsonl"])
def test_records_are_equal(folders: tuple[Path, Path], name: str) -> None:
    whole, cut = folders
    assert records(cut, name) == records(whole, name)
    assert len(records(whole, "ppo_metrics.jsonl")) == 10


def test_model_and_evaluation_are_equal(folders: tuple[Path, Path]) -> None:
    whole, cut = folders
    expected, given = (load_file(f / "model" / "model.safetensors") for f in folders)
    assert expected.keys() == given.keys()
    assert all((expected[k] == given[k]).all() for k in expected)
    assert (cut / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()
    assert (cut / "evaluation_samples.jsonl").read_text() == (whole / "evaluation_samples.jsonl").read_text()


def test_run_json_tells_that_it_finished(folders: tuple[Path, Path]) -> None:
    facts = json.loads((folders[1] / "run.json").read_text())
    assert facts["status"].startswith("finished")
    assert facts["step"] == 10
