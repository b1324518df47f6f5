"""What a GPU alone can show: captured steps, half precision with and without a scaler, quantized bases, whole runs."""

from __future__ import annotations

import gc
import json
import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from align.cli.compose import composed
from align.engine.engine import Engine
from align.engine.fast import captured, decoding
from align.engine.fast.captured import CAPTURED
from align.engine.fast.decoding import DecodingLayer
from align.engine.reference import Policy
from align.engine.sampling import Noise, sample
from align.run.runner import run
from align.types import Rollout
from tests import tiny
from tests.engine.reading import kind_of_model, with_adapter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU = torch.device("cuda")
SETTINGS = {"noise": Noise(0, "rollout"), "max_new_tokens": 20, "temperature": 1.5}
SMALL = (
    "max_steps=2 rollout.batch_size=16 rollout.max_new_tokens=32 evaluation.num_prompts=16 evaluation.num_pairs=16 "
    "evaluation.num_texts=4 checkpoint.every_steps=0 device=cuda"
)


def policy_of(kind: str, dtype: torch.dtype, *, adapter: bool = False) -> Policy:
    model = kind_of_model(kind).to(GPU)
    return with_adapter(model.to(dtype), dtype) if adapter else Engine().policy(model, dtype)


def sampled(policy: Policy, **more: object) -> Rollout:
    return sample(policy, tiny.chat(), tiny.prompts(5), samples_per_prompt=3, **SETTINGS | more)


@pytest.mark.parametrize("kind", sorted(CAPTURED))
def test_a_captured_step_samples_what_the_plain_path_samples(kind, monkeypatch):
    replays: list[int] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: (replays.append(1), replay(self)))
    policy = policy_of(kind, torch.float32)
    assert captured.why_not(policy.model) is None
    found = sampled(policy)
    assert len(replays) == 18  # of 20 tokens the first comes from the prompt, the second is run as it is
    expected = sampled(policy, cuda_graphs=False)
    assert len(replays) == 18 and len(set(expected.lengths.tolist())) > 3
    assert torch.equal(found.response_ids, expected.response_ids)
    torch.testing.assert_close(found.sampling_logprobs, expected.sampling_logprobs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_in_half_precision_sampling_says_what_training_reads(kind, dtype, adapter, monkeypatch):
    """To the mean distance that transformers' layers have without a graph, and a quarter more."""
    policy = policy_of(kind, dtype, adapter=adapter)
    gaps = []
    for graphs, layers in ((True, decoding._LAYERS), (False, {})):
        monkeypatch.setattr(decoding, "_LAYERS", layers)
        own = any(type(m) is DecodingLayer for m in policy.for_sampling().model.modules())
        assert own == (graphs and kind != "qwen3")
        rollout = sampled(policy, cuda_graphs=graphs, max_new_tokens=60)
        with torch.no_grad():
            read = policy.response_logprobs(rollout, SETTINGS["temperature"])
        gaps.append(float((read - rollout.sampling_logprobs).abs().sum() / rollout.response_mask.sum()))
    assert 0 < gaps[0] < 1.25 * gaps[1] + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_padding_wider_than_what_a_kernel_reads_at_once(dtype):
    """Rows whose first hundreds of keys are all hidden."""
    policy = policy_of("llama", dtype)
    short, long = tiny.prompts(2)
    prompts = [short, replace(long, input_ids=long.input_ids * 40)]
    assert len(prompts[1].input_ids) > 300
    given = {"noise": Noise(0, "rollout"), "max_new_tokens": 200, "temperature": 1.5, "samples_per_prompt": 4}
    found = sample(policy, tiny.chat(), prompts, **given)
    assert found.sampling_logprobs.isfinite().all() and (found.sampling_logprobs[:, 0] < 0).all()
    if dtype is torch.float32:
        plain = sample(policy, tiny.chat(), prompts, cuda_graphs=False, **given)
        assert torch.equal(found.response_ids, plain.response_ids)


def test_a_graph_sees_the_weights_of_its_own_rollout():
    """An update between two rollouts changes what the second samples, as by the plain path."""
    policy = policy_of("llama", torch.float32)
    first = sampled(policy)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    second = sampled(policy)
    assert not torch.equal(first.response_ids, second.response_ids)
    assert torch.equal(second.response_ids, sampled(policy, cuda_graphs=False).response_ids)


def test_captured_memory_is_given_back(monkeypatch):
    """No graph outlives its rollout, nor does what it held."""
    policy, graphs = policy_of("llama", torch.bfloat16), []
    capture = captured.Replayed._capture
    monkeypatch.setattr(
        captured.Replayed, "_capture", lambda self, graph: (graphs.append(weakref.ref(graph)), capture(self, graph))
    )

    def reserved() -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    sampled(policy)
    before = reserved()
    for _ in range(3):
        sampled(policy)
    assert reserved() <= before and len(graphs) == 4 and all(graph() is None for graph in graphs)


def test_the_same_run_evaluates_alike_on_cpu_and_gpu(tmp_path):
    """The start model, in fp32: responses are drawn by the same noise."""
    words = [*SMALL.split(), "method=grpo", "method.minibatch_size=16", "max_steps=1", "precision=fp32", "threads=1"]
    words += ["reward/source=gold", "reward/credit=sparse"]
    before = {
        device: run(composed([*words, f"device={device}"]), tmp_path / device, say=lambda line: None)["before"]
        for device in ("cpu", "cuda")
    }
    assert before["cuda"]["perplexity"] == pytest.approx(before["cpu"]["perplexity"], rel=1e-4)
    assert before["cuda"]["verbosity"] == pytest.approx(before["cpu"]["verbosity"], rel=1e-6)  # the same responses
    for key in ("proxy_mean", "gold_mean"):
        assert before["cuda"]["reward"][key] == pytest.approx(before["cpu"]["reward"][key], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(
    "words",
    ["method=grpo adapter=lora", "method=grpo", "method=ppo", "method=ppo adapter=lora", "method=dpo"],
)
def test_whole_runs(words, precision, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    replays: list[int] = []
    call = captured.Replayed.__call__
    monkeypatch.setattr(captured.Replayed, "__call__", lambda self: (replays.append(1), call(self)))
    own = [] if words == "method=dpo" else ["method.minibatch_size=16"]
    own += ["reward/source=gold", "reward/credit=sparse"] if "lora" in words else []  # else an adapter is trained first
    config = composed([*SMALL.split(), *words.split(), *own, f"precision={precision}"])
    result = run(config, tmp_path / "run", say=lambda line: None)
    assert result["step"] == 2 and replays
    assert abs(result["before"]["kl_per_response"]) < 1e-3
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["hardware"]["device"].startswith("cuda") and facts["peak_memory_mib"] > 1
    assert facts["engine"]["paths"]["captured_steps"] == {"on": True, "why": None}
    records = [json.loads(line) for line in (tmp_path / "run" / "log_history.jsonl").read_text().splitlines()]
    numbers = [v for record in records for v in record.values() if isinstance(v, float)]
    assert len(numbers) > 20 and all(math.isfinite(v) for v in numbers)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantized_bases_train_on_a_gpu(quantization, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    words = [*SMALL.split(), "method=grpo", "method.minibatch_size=16", "adapter=lora", "precision=bf16"]
    words += ["reward/source=gold", "reward/credit=sparse"]
    frozen = {}
    for kind in ("none", quantization):
        result = run(composed([*words, f"quantization={kind}"]), tmp_path / kind, say=lambda line: None)
        assert result["step"] == 2 and abs(result["before"]["kl_per_response"]) < 1e-3
        weights = json.loads((tmp_path / kind / "run.json").read_text())["weights_mib"]
        frozen[kind] = weights["all"] - weights["trained"]
    assert frozen[quantization] < 0.9 * frozen["none"]


def test_an_overflow_is_skipped_and_the_scale_halved(tmp_path):
    """fp16 with accelerate's own scaler: a gradient that is not finite moves no weight."""
    from align.config.methods import GRPOConfig
    from align.loop.optimization import Optimization
    from align.models.hardware import one_process

    accelerator = one_process(GPU, torch.float16)
    assert accelerator.scaler is not None
    weight = nn.Parameter(torch.ones(4, device=GPU))
    optimization = Optimization({"policy": ({"w": weight}, 0.1)}, GRPOConfig(), 10, accelerator)
    scales = [float(accelerator.scaler.get_scale())]
    for factor in (float("inf"), 1.0):
        accelerator.backward((weight * factor).sum())
        optimization.apply(0)
        scales.append(float(accelerator.scaler.get_scale()))
        assert bool((weight == 1).all()) == (factor > 1)
    assert scales[0] == 2 * scales[1] == 2 * scales[2]
    assert float(weight.detach().max()) < 1
