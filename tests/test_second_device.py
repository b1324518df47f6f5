"""Whole runs on a device that is no CPU (tests/second_device.py): nothing is left behind, the numbers are a CPU's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.config import (
    AttentionCredit,
    Config,
    EnsembleSource,
    ImplicitCredit,
    LengthWindowRule,
    PrefixCredit,
    RewardModelSource,
    RulesSource,
    TrainedOn,
)
from align.runner import run
from align.trainers.registry import METHODS, config_classes
from tests.rewards.test_foreign import causal_folder
from tests.test_every_method import SIZES
from tests.trainers import runs

MACHINE = ("time/", "throughput/", "memory/", "seconds", "reward_model/seconds")  # what a record says of it
PREFIXES = {"trained_on": TrainedOn.prefixes, "prefix_steps": 3}
RUNS: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHODS}
RUNS |= {f"{name} with LoRA": {"method": name, "adapter": runs.LORA} for name in ("ppo", "grpo", "dpo", "sft")}
RUNS |= {
    "a reward model trained": {"method": "ppo", "source": RewardModelSource(), "credit": AttentionCredit()},
    "one with LoRA, on prefixes": {
        "method": "ppo", "adapter": runs.LORA, "source": RewardModelSource(**PREFIXES), "credit": PrefixCredit()
    },
    "an ensemble": {"method": "grpo", "source": EnsembleSource(members=2), "credit": PrefixCredit()},
    "rules": {"method": "grpo", "source": RulesSource(length_window=LengthWindowRule(weight=1.0, low=2))},
    "a DPO policy's log-ratio": {"method": "grpo", "credit": ImplicitCredit(batch_size=8)},
    "another tokenizer": {"method": "ppo", "credit": AttentionCredit()},
    "recomputed activations": {"method": "grpo", "adapter": runs.LORA},
}  # fmt: skip


def config_of(name: str, data: Path) -> Config:
    settings = dict(RUNS[name])
    method, credit = settings.pop("method"), settings.pop("credit", None)
    if name == "another tokenizer":
        settings["source"] = RewardModelSource(path=str(causal_folder()))
    config = runs.config(config_classes()[method](**SIZES.get(method, {})), data, **settings)
    config.model.gradient_checkpointing = name == "recomputed activations"
    if credit is not None:
        config.reward.credit = credit
    return config


def python(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run on the second device, in one process."""
    made: Path = tmp_path_factory.mktemp("second")
    runs.write_data(made / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_HOME", str(made / "home"))
        python("-m", "tests.second_device", str(made), *RUNS)
    return made


def figures(folder: Path) -> list[dict[str, Any]]:
    """All that was logged, but of the machine."""
    records = runs.lines(folder / "log_history.jsonl")
    return [{key: value for key, value in record.items() if not key.startswith(MACHINE)} for record in records]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_says_what_it_says_on_a_cpu(name, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    failed = folder / f"{name}.failed"
    assert not failed.exists(), failed.read_text()
    run(config_of(name, folder / "data"), tmp_path / "run", say=lambda line: None)
    assert json.loads((folder / name / "run.json").read_text())["hardware"]["device"] == "second:0"
    found, expected = figures(folder / name), figures(tmp_path / "run")
    assert len(found) == len(expected) > 1
    for record, other in zip(found, expected, strict=True):
        assert record.keys() == other.keys()
        for key, value in other.items():
            near = pytest.approx(value, rel=5e-3, abs=2e-5) if isinstance(value, float) else value
            assert record[key] == near, key


REFUSALS = """
import torch, pytest
from tests.second_device import RefusedError, _Mode, install
device = install()
here, there = torch.ones(3), torch.ones(3, device=device)
there[torch.tensor([0])] += 2 * there[[1]]  # indices may come from anywhere, and so may single numbers
assert (there * torch.tensor(2.0)).tolist() == [6.0, 2.0, 2.0] and there.to("cpu").device.type == "cpu"
for mix in (
    lambda: here + there,
    lambda: there.add_(here),
    lambda: torch.cat([here, there]),
    lambda: here[torch.zeros(1, dtype=torch.long, device=device)],
    lambda: there.index_copy_(0, torch.tensor([0]), there[:1]),
    lambda: torch.nn.functional.embedding(torch.tensor([0]), torch.ones(2, 2, device=device)),
):
    with pytest.raises(RefusedError, match="on the CPU among others"):
        mix()
_Mode.captured = True
there[1:] += there[:-1].clone()
for ask in (
    lambda: int(there.sum()),
    lambda: there.tolist(),
    lambda: there[there > 1],
    lambda: (there > 1).nonzero(),
    lambda: there.copy_(here),
    lambda: there.to("cpu"),
    lambda: here.to(device),
    lambda: torch.tensor([1.0], device=device),
    lambda: there[[0]],
):
    with pytest.raises(RefusedError, match="in a captured step"):
        ask()
"""


def test_the_device_refuses_what_a_gpu_would():
    python("-c", REFUSALS)
