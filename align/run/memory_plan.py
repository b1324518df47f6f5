"""Estimate the memory of a run at its peak before any weights are read, part by part.

With P weights of the model, T trained ones, L layers of width d and feed-forward width f, V vocabulary entries, and n
tokens of a micro-batch, r of them of responses:

    weights     4 P a role that is trained whole; the precision's size where they are frozen; an adapter's on one base
    gradients   4 T, optimizer (AdamW's two moments) 8 T
    activations n L (12 d + 3 f) + 2 r V numbers: what autograd keeps, the logits, their gradient
    sampling    rows x length x 2 L x (width of keys), the prompts' pass, the copy that is decoded with
    evaluation  the logits of two passes

Updates, sampling and evaluation take turns, so the largest of them counts. `python scripts/bench/memory_plan.py` holds
the estimate to measured runs; the constants below were chosen there.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import TaskType
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from align.config import Config, Examples, LoopConfig
from align.config.methods import OfflineConfig, OnPolicyConfig
from align.config.trl import TRLConfig
from align.data.prepared import Preferences
from align.engine.budget import feed_forward, layer_numbers, micro_batch_tokens
from align.errors import WARNING, Verdict
from align.evaluation.likelihood import logit_budget
from align.models.adapters import adapted, lora_config, not_adapted
from align.models.locate import locate
from align.numbers import amount

MIB = 2**20
PROCESS = 550.0  # MiB of the interpreter, torch and the other libraries, on a CPU
HEAP = 1.3  # what glibc takes of a CPU for pieces of up to 32 MiB, per byte in use: freed ones leave gaps
PADDED = 1.25  # padded tokens of a micro-batch of given responses, per token
# By LoRA and bytes of compute: numbers of 4 bytes that autograd keeps, per number of the formula, of a layer and of the
# head (scripts/bench/activations.py).
KEPT = {(False, 4): (1.06, 1.06), (False, 2): (0.85, 1.12), (True, 4): (0.98, 1.0), (True, 2): (0.54, 0.5)}
STORED = {"int8": 1.0, "nf4": 0.56}  # bytes of a quantized weight


@dataclass(frozen=True)
class MemoryPlan:
    """MiB of a run by what takes them."""

    weights: dict[str, float]  # by role
    updates: dict[str, float]  # gradients, optimizer, activations
    sampling: float
    evaluation: float
    process: float
    available: float | None  # that this process can have on the machine; None = unknown
    key: str  # of the configuration, that takes most of it away

    @property
    def peak(self) -> float:
        """The largest sum at any time."""
        optimizer = self.updates.get("optimizer", 0.0)
        turns = (sum(self.updates.values()), optimizer + self.sampling, optimizer + self.evaluation)
        return self.process + sum(self.weights.values()) + max(turns)

    @property
    def line(self) -> str:
        """The estimate in one line."""
        parts = {**self.weights, **self.updates, "sampling": self.sampling, "evaluation": self.evaluation}
        named = sorted(((size, name) for name, size in parts.items() if size >= 1), reverse=True)
        largest = ", ".join(f"{name} {amount(size)}" for size, name in named[:4])
        return f"memory at the peak: about {amount(self.peak)} ({largest})"

    @property
    def verdict(self) -> Verdict | None:
        """A warning where the machine has less."""
        if self.available is None or self.peak <= self.available:
            return None
        what = f"the run takes about {amount(self.peak)} of memory, the machine has {amount(self.available)} left"
        return Verdict(WARNING, what, round(self.peak, 1), self.key)

    def as_json(self) -> dict[str, Any]:
        """The estimate for run.json, MiB."""
        whole = {"peak": self.peak, "process": self.process, "sampling": self.sampling, "evaluation": self.evaluation}
        rounded = {name: round(size, 1) for name, size in whole.items()}
        parts = {"weights": self.weights, "updates": self.updates}
        rounded |= {name: {k: round(v, 1) for k, v in part.items()} for name, part in parts.items()}  # type: ignore[misc]
        return rounded | {"available": self.available and round(self.available, 1)}


@dataclass(frozen=True)
class _Shape:
    """What the formulas read of a model."""

    whole: int  # weights
    products: int  # of them in linear layers
    head: int  # of them in the head's matrix
    tied: bool  # whether that is the embeddings'
    adapter: int  # of one adapter; 0 = every weight is trained
    layers: int
    layer: int  # numbers that a layer keeps of a token
    width: int
    inner: int  # width of the feed-forward part
    keys: int  # numbers of keys, or of values, that a layer caches of a token
    vocabulary: int
    size: int  # bytes of a number in compute

    @property
    def body(self) -> int:
        """Weights of a role with a scalar head."""
        return self.whole if self.tied else self.whole - self.head

    @classmethod
    def of(cls, model: PreTrainedModel, config: Config, dtype: torch.dtype) -> _Shape:
        """Read the shape of a model on the meta device; puts the run's adapter on it."""
        text, head = model.config.get_text_config(), model.get_output_embeddings()
        heads = getattr(text, "num_attention_heads", 1)
        head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
        linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
        common = {
            "whole": model.num_parameters(),
            "products": sum(weight.numel() for weight in linear),
            "head": 0 if head is None else head.weight.numel(),
            "tied": head is not None and head.weight is model.get_input_embeddings().weight,
            "layers": text.num_hidden_layers,
            "layer": layer_numbers(text),
            "width": text.hidden_size,
            "inner": feed_forward(text),
            "keys": (getattr(text, "num_key_value_heads", None) or heads) * head_width,
            "vocabulary": text.vocab_size,
            "size": torch.finfo(dtype).bits // 8,
        }
        adapter = 0
        if config.adapter.name == "lora":
            without = not_adapted(model, config.adapter.target_modules)
            settings = lora_config(config.adapter, TaskType.CAUSAL_LM, without)
            whole = adapted(model, settings, low_cpu_mem_usage=True)
            adapter = sum(p.numel() for p in whole.parameters() if p.requires_grad)
        return cls(adapter=adapter, **common)


def plan_memory(
    config: Config,
    model: PreTrainedModel,
    data: Preferences,
    *,
    device: torch.device,
    dtype: torch.dtype,
    left: float | None,
) -> MemoryPlan | None:
    """Estimate a settled run's memory; None for TRL's trainers, whose passes are their own.

    Args:
        model: On the meta device; it is changed.
        left: MiB that this process can have on the machine.
    """
    if isinstance(config.method, TRLConfig):
        return None
    shape, heap = _Shape.of(model, config, dtype), HEAP if device.type == "cpu" else 1.0
    weights, batch = _weights(shape, config), _Batch.of(config, model, data)
    updates = _updates(shape, config, batch, heap)
    sampling, evaluation = _sampling(shape, config, data, heap), _evaluation(shape, model, config, data)
    costs = {
        "method.micro_batch_tokens": updates.get("activations", 0.0),
        "rollout.decode_batch_size": sampling,
        "evaluation.batch_size": evaluation,
        "adapter": 0.0 if shape.adapter else sum(weights.values()) + updates.get("optimizer", 0.0),
    }
    process = PROCESS if device.type == "cpu" else 0.0
    return MemoryPlan(weights, updates, sampling, evaluation, process, left, max(costs, key=costs.__getitem__))


def _weights(shape: _Shape, config: Config) -> dict[str, float]:
    """MiB of the weights of each role; the roles that share a base take an adapter each."""
    stored = STORED.get(config.quantization.name, shape.size)
    policy = shape.whole * stored + 4 * shape.adapter if shape.adapter else 4 * shape.whole
    rest = shape.whole - shape.products + (shape.head if shape.tied else 0)  # a rounded head has weights of its own
    copy = 4 * rest + shape.size * shape.products if shape.size < 4 else 4 * shape.whole
    own = 4 * shape.adapter or copy * shape.body / shape.whole
    found = {"policy": float(policy), "reference": 0.0 if shape.adapter else float(copy)}
    if config.method.critic is not None:
        found["critic"] = float(4 * (shape.adapter or shape.body))
    for i, source in enumerate(config.reward.source.models()):
        found["reward model" if i == 0 else f"reward model {i + 1}"] = float(
            _stored(source.path, copy / shape.whole) or own
        )
    if config.evaluation.reward_model is not None:
        found["judge"] = float(4 * shape.whole)
    return {name: size / MIB for name, size in found.items()}


def _stored(path: str | None, size: float) -> float:
    """Bytes of a reward model in a folder, of `size` bytes a weight; 0 where it is the run's own, or on the Hub."""
    if path is None or not Path(path).expanduser().is_dir():
        return 0.0
    checkpoint = locate(path, key="reward.source.path")
    numbers = 0
    for file in Path(checkpoint.adapter or checkpoint.base).glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            shapes = (tensors.get_slice(name).get_shape() for name in tensors.keys())  # noqa: SIM118  no mapping
            numbers += sum(torch.Size(one).numel() for one in shapes)
    return numbers * (size if checkpoint.adapter is None else 4)


def _updates(shape: _Shape, config: Config, batch: _Batch | None, heap: float) -> dict[str, float]:
    """MiB that the updates take beside the weights."""
    if batch is None:
        return {}
    trained = shape.adapter or shape.whole
    if config.method.critic is not None:
        trained += shape.adapter or shape.body
    layer, head = KEPT[bool(shape.adapter), min(shape.size, 4)]
    kept = shape.layers * shape.layer * layer
    if config.model.gradient_checkpointing:  # the layers' inputs, and one layer at a time
        kept = shape.layers * shape.width * shape.size / 4 + shape.layer * layer
    activations = batch.tokens * kept * 4 * heap + batch.logits * shape.vocabulary * (4 * head + shape.size)
    if shape.size < 4 and not shape.adapter:
        activations += 2 * shape.products  # autocast's rounded weights, which the backward pass reads
    found = {"gradients": 4.0 * trained, "optimizer": 8.0 * trained, "activations": activations}
    return {name: size / MIB for name, size in found.items()}


@dataclass(frozen=True)
class _Batch:
    """The largest micro-batch of an update."""

    tokens: float  # padding included
    logits: float  # tokens at which there are logits

    @classmethod
    def of(cls, config: Config, model: PreTrainedModel, data: Preferences) -> _Batch | None:
        """Estimate it from the data's lengths and the budget; None where nothing is trained."""
        method, given, sides = config.method, None, 1 if config.method.name == "sft" else 2
        if isinstance(method, LoopConfig):
            given = method.micro_batch_tokens
        padded = PADDED
        read = _read(config, data)
        prompts, answers = _mean(prompt for prompt, _ in read), _mean(n for _, lengths in read for n in lengths)
        longest = max(prompt + max(lengths, default=0) for prompt, lengths in read)
        if isinstance(method, OfflineConfig):
            rows = sides * method.batch_size
        elif isinstance(method, OnPolicyConfig):
            rows, answers = method.minibatch_size, config.rollout.new_tokens
            sides, padded = 1, 1.0  # every response may be as long as it can be
            longest = max(prompt for prompt, _ in read) + answers
        elif models := (config.reward.source.models() if method.name == "reward_model" else ()):
            rows = sides * models[0].batch_size
        else:
            return None
        tokens = max(sides * longest, min(micro_batch_tokens(model.config, given), padded * rows * (prompts + answers)))
        scored = method.name == "reward_model"
        return cls(tokens, 0.0 if scored else tokens * answers / (prompts + answers))


def _read(config: Config, data: Preferences) -> list[tuple[int, list[int]]]:
    """Return the tokens of every training prompt and of the responses beside it that the method may read."""
    given = data.trained.given()
    if config.method.learns_from is Examples.pairs:
        given = ((pair.prompt, pair.completions) for pair in data.train)
    return [(prompt.tokens, [one.tokens for one in responses]) for prompt, responses in given]


def _mean(lengths: Iterable[int]) -> float:
    found = list(lengths)
    return statistics.fmean(found) if found else 0.0


def _sampling(shape: _Shape, config: Config, data: Preferences, heap: float) -> float:
    """MiB of a rollout: cache, the prompts' pass, and the copy that is decoded with."""
    rollout = config.rollout
    rows = rollout.decode_batch_size or rollout.batch_size
    if not isinstance(config.method, OnPolicyConfig):  # nothing but the evaluation samples
        rows = min(rows, config.evaluation.num_prompts)
    prompt = max(prompt.tokens for prompt in [*data.trained.prompts, *data.measured.prompts])
    cache = rows * (prompt + rollout.new_tokens) * 2 * shape.layers * shape.keys * shape.size
    reading = rows * prompt * (shape.inner * 3 + shape.width * 4) * shape.size
    logits = 2 * rows * shape.vocabulary * 4
    copied = shape.products - (shape.head if shape.adapter else 0)
    copy = copied * shape.size if shape.adapter or shape.size < 4 else 0
    if config.quantization.name != "none":
        copy = 0
    return float(heap * (cache + reading) + logits + copy) / MIB


def _evaluation(shape: _Shape, model: PreTrainedModel, config: Config, data: Preferences) -> float:
    """MiB of the logits of a pass over responses, and of the reference's beside them."""
    measured = config.evaluation
    sampled = [] if data.held_out or data.measured.demonstrations else [config.rollout.new_tokens]
    rows = [
        prompt.tokens + max([one.tokens for one in responses] + sampled) for prompt, responses in data.measured.given()
    ]
    count = min(measured.batch_size, max(measured.num_prompts, 2 * measured.num_pairs))
    tokens = max(max(rows), min(logit_budget(model.config), count * statistics.fmean(rows)))
    passed = tokens * (3 * shape.inner + 4 * shape.width)
    return float((2 * tokens * shape.vocabulary + passed) * shape.size) / MIB
