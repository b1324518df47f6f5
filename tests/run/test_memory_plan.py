"""The estimate of a run's memory: its weights against loaded ones, its formulas by hand, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path

import pytest
import torch

from align.config import CriticInit, Precision, QuantizationConfig
from align.config.methods import DPOConfig, PPOConfig, SFTConfig
from align.config.trl import TRLDPOConfig
from align.data.preferences import load_preferences
from align.engine.roles import build_roles, weights_mib
from align.models.hardware import torch_dtype
from align.models.load import load_skeleton
from align.run.memory_plan import HEAP, KEPT, MIB, PROCESS, plan_memory
from tests import tiny
from tests.algorithms import runs

WIDTH, INNER, LAYERS, VOCABULARY, KEYS = 24, 32, 2, 33, 12


def planned(path, method, *, precision=Precision.fp32, left=None, device=tiny.CPU, **sections):
    quantization = sections.pop("quantization", QuantizationConfig())
    config = runs.config(method, runs.write_data(path / "data"), **sections)
    config = dataclasses.replace(config, precision=precision, quantization=quantization)
    data = load_preferences(config.data, tiny.chat())
    model = load_skeleton(config.model)
    return config, data, plan_memory(config, model, data, device=device, dtype=torch_dtype(precision), left=left)


@pytest.mark.parametrize("adapter", [None, runs.LORA])
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
@pytest.mark.parametrize("method", [DPOConfig(), PPOConfig(minibatch_size=8)])
def test_weights_are_those_that_a_run_loads(tmp_path, method, adapter, precision):
    config, _, plan = planned(tmp_path, method, precision=precision, adapter=adapter)
    critic = CriticInit.policy if method.name == "ppo" else None
    dtype = torch_dtype(precision)
    reward = Path(config.reward.source.path)
    roles = build_roles(config, device=tiny.CPU, dtype=dtype, reward=reward, critic_init=critic)
    loaded = weights_mib(roles)
    # Beside the plan: the frequencies of rotary embeddings, scalar heads, norms that are not rounded in one model.
    assert 1024 * sum(plan.weights.values()) == pytest.approx(
        1024 * loaded["all"], abs=0.5 if precision is Precision.fp32 else 0.7
    )
    trained = plan.updates["gradients"]
    assert 1024 * trained == pytest.approx(1024 * loaded["trained"], abs=0.2)  # a scalar head too
    assert plan.updates["optimizer"] == 2 * trained


def test_activations_by_hand(tmp_path):
    _, data, plan = planned(tmp_path, SFTConfig(batch_size=16, micro_batch_tokens=64))
    prompt = statistics.fmean(len(p.prompt.input_ids) for p in data.train)
    answer = statistics.fmean(len(ids) for p in data.train for ids in (p.chosen_ids, p.rejected_ids))
    layer, head = KEPT[False, 4]
    kept = 64 * LAYERS * (12 * WIDTH + 3 * INNER) * layer * 4 * HEAP
    logits = 64 * answer / (prompt + answer) * VOCABULARY * 4 * (head + 1)
    assert plan.updates["activations"] == pytest.approx((kept + logits) / MIB)


def test_a_rollout_s_cache_by_hand(tmp_path):
    few, many = (
        planned(tmp_path / str(rows), PPOConfig(minibatch_size=4), rollout={"decode_batch_size": rows})[2].sampling
        for rows in (4, 12)
    )
    _, data, _ = planned(tmp_path, PPOConfig(minibatch_size=8))
    prompt = max(len(p.prompt.input_ids) for p in [*data.train, *data.held_out])
    cache = 8 * (prompt + 8) * 2 * LAYERS * KEYS * 4  # of the other 8 rows, with 8 new tokens each
    reading = 8 * prompt * (3 * INNER + 4 * WIDTH) * 4
    assert many - few == pytest.approx((HEAP * (cache + reading) + 2 * 8 * VOCABULARY * 4) / MIB)


def test_the_largest_turn_counts(tmp_path):
    _, _, plan = planned(tmp_path, DPOConfig(batch_size=16))
    updates = plan.updates["gradients"] + plan.updates["activations"]
    largest = max(updates, plan.sampling, plan.evaluation)
    expected = PROCESS + sum(plan.weights.values()) + plan.updates["optimizer"] + largest
    assert plan.peak == pytest.approx(expected)
    assert planned(tmp_path / "gpu", DPOConfig(batch_size=16), device=torch.device("cuda"))[2].process == 0


def test_less_than_the_run_takes_is_warned_about(tmp_path):
    _, _, plan = planned(tmp_path, DPOConfig(batch_size=16), left=PROCESS)
    verdict = plan.verdict
    assert verdict.level == "warning" and verdict.figure == pytest.approx(plan.peak, abs=0.1)
    assert verdict.what == f"the run takes about {plan.peak:.0f} MiB of memory, the machine has {PROCESS:.0f} MiB left"
    _, _, enough = planned(tmp_path, DPOConfig(batch_size=16), left=plan.peak)
    assert enough.verdict is None


def test_the_key_to_turn_is_of_what_takes_most(tmp_path):
    budget = DPOConfig(batch_size=16, micro_batch_tokens=10_000)
    assert planned(tmp_path / "a", budget, adapter=runs.LORA)[2].key == "method.micro_batch_tokens"
    sampling = PPOConfig(minibatch_size=8, micro_batch_tokens=8)
    long = {"batch_size": 8192, "decode_batch_size": 8192}
    assert planned(tmp_path / "b", sampling, adapter=runs.LORA, rollout=long)[2].key == "rollout.decode_batch_size"


def test_quantized_weights_take_less(tmp_path):
    _, _, whole = planned(tmp_path / "a", DPOConfig(), adapter=runs.LORA)
    _, _, small = planned(tmp_path / "b", DPOConfig(), adapter=runs.LORA, quantization=QuantizationConfig(name="int8"))
    assert small.weights["policy"] < 0.8 * whole.weights["policy"]


def test_trl_s_trainers_are_not_estimated(tmp_path):
    assert planned(tmp_path, TRLDPOConfig())[2] is None


def test_a_run_says_it_before_anything_is_measured(align, tmp_path):
    data = runs.write_data(tmp_path / "data")
    words = [f"data.path={data / 'train.jsonl'}", f"data.held_out_path={data / 'held_out.jsonl'}", "device=cpu"]
    words += ["data.max_prompt_tokens=60", "data.max_response_tokens=9", "rollout.max_new_tokens=8", "max_steps=1"]
    words += ["evaluation.num_prompts=2", "evaluation.num_pairs=2", "evaluation.num_texts=2", "evaluation.num_probes=0"]
    folder = tmp_path / "run"
    local = ["model=local", f"model.path={tiny.folder()}", "data=jsonl", f"hydra.run.dir={folder}"]
    code, _, err = align("method=sft", *local, *words)
    assert code == 0, err
    said = [line for line in err.splitlines() if line.startswith(("memory at the peak: about ", "evaluation (before"))]
    assert len(said) == 2 and said[0].startswith("memory")
    plan = json.loads((folder / "run.json").read_text())["memory_plan_mib"]
    assert plan["peak"] > plan["process"] == PROCESS
    assert set(plan["updates"]) == {"gradients", "optimizer", "activations"}
