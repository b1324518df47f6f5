"""Whole runs on a device that is no CPU (tests/second_device.py): nothing is left behind, the numbers are a CPU's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align import metrics
from align.config import (
    AttentionCredit,
    Config,
    EnsembleSource,
    ImplicitCredit,
    PrefixCredit,
    RewardModelSource,
    RulesSource,
    TrainedOn,
)
from align.config.groups import METHODS
from align.config.rules import LengthWindowRule, RegexRule
from tests.algorithms import runs
from tests.rewards.test_cross_tokenizer import causal_folder
from tests.test_every_method import SIZES

PREFIXES = {"trained_on": TrainedOn.prefixes, "prefix_steps": 3, "epochs": 1}
LETTERS = RulesSource(regex=RegexRule(pattern="[aeiou]"), length_window=LengthWindowRule(weight=1.0, low=2))
RUNS: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHODS}
RUNS |= {f"{name} with LoRA": {"method": name, "adapter": runs.LORA} for name in ("ppo", "grpo", "dpo", "sft")}
RUNS |= {
    "a reward model trained": {"method": "ppo", "source": RewardModelSource(epochs=1), "credit": AttentionCredit()},
    "one with LoRA, on prefixes": {
        "method": "ppo", "adapter": runs.LORA, "source": RewardModelSource(**PREFIXES), "credit": PrefixCredit()
    },
    "an ensemble": {"method": "grpo", "source": EnsembleSource(members=2, epochs=1), "credit": PrefixCredit()},
    "rules": {"method": "grpo", "source": LETTERS},
    "a DPO policy's log-ratio": {"method": "grpo", "credit": ImplicitCredit(batch_size=8)},
    "another tokenizer": {"method": "ppo", "credit": AttentionCredit()},
    "recomputed activations": {"method": "grpo", "adapter": runs.LORA},
    "rows leave, prompts shared": {"method": "grpo", "rollout": {"max_new_tokens": 20}},
}  # fmt: skip
THERE = {"rows leave, prompts shared": {"capture_bytes": 0, "shared_from_on_gpu": 2}}  # limits, on that device alone


def config_of(name: str, data: Path) -> Config:
    settings = dict(RUNS[name])
    method, credit = settings.pop("method"), settings.pop("credit", None)
    if name == "another tokenizer":
        settings["source"] = RewardModelSource(path=str(causal_folder()))
    kind = METHODS[method]
    rate = {"learning_rate": 1e-3} if kind().trains else {}  # for updates that can be told from roundings
    config = runs.config(kind(**SIZES.get(method, {}) | rate), data, **settings)
    config.model.gradient_checkpointing = name == "recomputed activations"
    if credit is not None:
        config.reward.credit = credit
    return config


def python(*words: str) -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=root, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run on both devices, in one process."""
    made: Path = tmp_path_factory.mktemp("second")
    runs.write_data(made / "data")
    python("-m", "tests.second_device", str(made), *RUNS)
    return made


def figures(folder: Path) -> list[dict[str, Any]]:
    return [metrics.repeatable(record) for record in runs.lines(folder / "log_history.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_says_what_it_says_on_a_cpu(name, folder):
    """But for roundings: attention and optimizer are a CPU's own there."""
    told = json.loads((folder / "second" / f"{name}.json").read_text())
    assert told["failed"] is None, told["failed"]
    assert told["operations"] > 1000
    assert name == "reward_model" or told["captured steps"] > 10
    for way in ("times rows left", "times prompts were shared") if name in THERE else ():
        assert told[way] > 0, way
    found, expected = (figures(folder / device / name) for device in ("second", "cpu"))
    assert len(found) == len(expected) > 1
    for record, other in zip(found, expected, strict=True):
        assert record.keys() == other.keys()
        for key, value in other.items():
            near = pytest.approx(value, rel=1e-3, abs=5e-6) if isinstance(value, float) else value
            assert record[key] == near, key


REFUSALS = """
import torch, pytest
from tests.second_device import RefusedError, Watch, install
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
    lambda: torch.zeros(()).add_(there.sum()),
    lambda: torch.stack([there.sum(), torch.zeros(())]),
    lambda: there.index_select(0, torch.tensor(0)),
):
    with pytest.raises(RefusedError, match="on the CPU among others"):
        mix()
for draw in (
    lambda generator: torch.rand(3, device=device, generator=generator),
    lambda generator: there.normal_(generator=generator),
):
    with pytest.raises(RefusedError, match="a generator of the CPU's"):
        draw(torch.Generator())
there[there > 100] = torch.tensor(0.0)
assert torch.zeros_like(here, device=device).tolist() == here.new_zeros(3, device=device).tolist() == [0.0] * 3
Watch.captured = True
there[1:] += there[:-1].clone()
for ask in (
    lambda: int(there.sum()),
    lambda: there.tolist(),
    lambda: there[there > 1],
    lambda: (there > 1).nonzero(),
    lambda: there.unique(),
    lambda: torch.equal(there, there),
    lambda: there.masked_select(there > 1),
    lambda: there.long().bincount(),
    lambda: there.repeat_interleave(there.long()),
    lambda: there.index_put_((there > 1,), there.new_zeros(())),
    lambda: there[torch.tensor([0])],
    lambda: there.copy_(here),
    lambda: here.copy_(there),
    lambda: there.sum().to("cpu"),
    lambda: torch.tensor(1.0).to(device),
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
