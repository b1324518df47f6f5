"""Every fast path against the reference engine: the same numbers in fp32, and in bf16 no farther from fp32."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from unittest import mock

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from align.config import EngineKind
from align.engine import compat
from align.engine.engine import Engine
from align.engine.fast import captured, decoding, paths, prepacked
from align.engine.fast.cpu_attention import CHECKED
from align.engine.fast.limits import Limits
from align.engine.fast.prepacked import PackedLinear, StoredLinear
from align.engine.reference import Policy
from align.engine.roles import zero_head
from align.engine.sampling import Noise, sample
from align.models.load import body_of, without_dropout
from align.types import Rollout
from tests import tiny
from tests.engine.reading import batch, kind_of_model, with_adapter

HALF = torch.bfloat16
BOTH = (torch.float32, HALF)
BASES = {"biased": "llama"}
SETTINGS = {
    "biased": {"attention_bias": True, "mlp_bias": True, "head_dim": 8, "tie_word_embeddings": True},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "mixtral": {"num_local_experts": 4},
}
EXPERTS = ("mixtral", "mixtral, window", "qwen2_moe")  # a rounding may choose another expert: held in fp32 alone
WINDOWS = ["mistral, window", "mixtral, window", "phi3, window", "starcoder2, window"]
WHOLE = [*sorted(CHECKED), "biased"]  # of layers that see all before them
EVERY = [*WHOLE, *WINDOWS, "gemma2", "gpt2", "opt"]
OURS = [*WHOLE, *WINDOWS]  # kinds that the CPU attention is for
LLAMAS = ["llama", "mistral", "qwen2", "biased"]  # kinds whose layers decoding replaces
LINEAR = [kind for kind in EVERY if kind != "gpt2"]  # kinds whose products are nn.Linear


NEVER_SHARED, SHARED = Limits(shared_from=10**6), Limits(shared_from=20, shared_saves=0.1)
ONCE = Limits(held_once_from=1, room=3)


@dataclass(frozen=True)
class Case:
    """A path by itself, beside those that it stands on: the first of `on`."""

    on: tuple[str, ...]
    kinds: list[str]  # of models that take it
    samples: bool = False  # whether the path is one of sampling, else of reading
    dtypes: tuple[torch.dtype, ...] = BOTH
    adapters: tuple[bool, ...] = (False,)
    limits: Limits = NEVER_SHARED


CASES = {
    "cpu attention": Case(("cpu_attention",), OURS),
    "cpu attention, sampling": Case(("cpu_attention",), OURS, samples=True),
    "packed rows": Case(("packed_rows", "cpu_attention"), WHOLE),
    "shared prompts": Case(("shared_prompts", "roomy_cache"), EVERY, limits=SHARED),
    "shared prompts, packed": Case(("shared_prompts", "packed_rows", "cpu_attention"), WHOLE, limits=SHARED),
    "fused lora": Case(("fused_lora",), LINEAR, adapters=(True,)),
    "roomy cache": Case(("roomy_cache",), EVERY, samples=True, limits=Limits(room=3)),
    "decoding layers": Case(
        ("decoding_layers", "prepacked_weights", "cpu_attention", "roomy_cache"),
        LLAMAS,
        samples=True,
        adapters=(False, True),
        limits=Limits(room=3),
    ),
    "prompts held once": Case(
        ("decoding_layers", "prepacked_weights", "cpu_attention", "roomy_cache"),
        LLAMAS,
        samples=True,
        adapters=(False, True),
        limits=ONCE,
    ),
    "merged copy": Case(("sampling_copy",), EVERY, samples=True, dtypes=(torch.float32,), adapters=(True,)),
    "rounded copy": Case(("sampling_copy", "rounded_weights"), EVERY, samples=True, dtypes=(HALF,)),
    "prepacked copy": Case(
        ("prepacked_weights", "sampling_copy", "rounded_weights", "roomy_cache"),
        EVERY,
        samples=True,
        dtypes=(HALF,),
        adapters=(False, True),
    ),
    "captured steps": Case(
        ("captured_steps", "roomy_cache"),
        [*sorted(captured.CAPTURED), "biased"],
        samples=True,
        limits=Limits(capture_bytes=0),
    ),
    "all, reading": Case(tuple(paths.PATHS), EVERY, adapters=(False, True), limits=SHARED),
    "all, sampling": Case(tuple(paths.PATHS), EVERY, samples=True, adapters=(False, True), limits=ONCE),
}
TRIED = [
    pytest.param(case, kind, dtype, adapter, id=f"{name}-{kind}-{str(dtype)[6:]}{'-lora' if adapter else ''}")
    for name, case in CASES.items()
    for kind in case.kinds
    for dtype in case.dtypes
    for adapter in case.adapters
    if dtype is torch.float32 or kind not in EXPERTS
]
MODULES = {
    "rounded_weights": "casting",
    "decoding_layers": "decoding",
    "prepacked_weights": "prepacked",
    "captured_steps": "captured",
    "kept_pages": "pages",
}


@contextmanager
def alone(case: Case) -> Iterator[None]:
    """With the case's paths in reach alone; what takes a GPU, or bf16, runs on this CPU and in fp32 as well."""
    with ExitStack() as stack:

        def put(module: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(module, name, value))

        for name in paths.PATHS.keys() - set(case.on):
            put(sys.modules[f"align.engine.fast.{MODULES.get(name, name)}"], "why_not", lambda *_, **__: "off")
        if case.on[0] == "captured_steps":
            put(captured, "why_not", captured.varying)
        if case.on[0] == "decoding_layers":
            put(prepacked, "why_not", lambda model, dtype: None)
            put(decoding, "PackedLinear", product)
        yield


def product(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A frozen product, packed where this CPU packs its type."""
    return (PackedLinear if weight.dtype is HALF and PACKS else StoredLinear)(weight, bias)


PACKS = prepacked.why_not(nn.Linear(1, 1), HALF) is None


def model_of(kind: str, rounded: bool = False) -> PreTrainedModel:
    """Of two layers, with biases that are not 0; `rounded`: its weights are numbers of bf16."""
    if kind in ("gemma2", "gpt2", "opt"):
        torch.manual_seed(0)
        config = tiny.model_config(kind, **({"n_positions": 128} if kind == "gpt2" else {}))
        model = AutoModelForCausalLM.from_config(without_dropout(config)).eval()
    else:
        name, _, window = kind.partition(", ")
        settings = SETTINGS.get(kind, {}) | ({"sliding_window": 6} if window else {})
        model = kind_of_model(BASES.get(name, name), **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3, generator=generator)
    return model.to(HALF).float() if rounded else model


def policy_of(engine: Engine, kind: str, dtype: torch.dtype, adapter: bool, rounded: bool = False) -> Policy:
    """The base below an adapter is stored in the type it computes in, as a run stores it."""
    model = model_of(kind, rounded)
    return with_adapter(model.to(dtype), dtype, alpha=6, engine=engine) if adapter else engine.policy(model, dtype)


REFERENCE = Engine(EngineKind.reference)
FIGURES = 4  # of a reading, before the gradients


def read(engine: Engine, kind: str, dtype: torch.dtype, adapter: bool, rounded: bool = False) -> list[Tensor]:
    """Log-probabilities, entropies and scores where they count, and the gradients of weighted sums of them."""
    policy = policy_of(engine, kind, dtype, adapter, rounded)
    given = batch((50, 60, 7), (3, 11, 1, 6, 8, 5), (0, 1, 0, 2, 1, 0))
    mask, real = given.response_mask == 1, given.attention_mask == 1
    stats = policy(given, 0.9)
    logp = stats.logprobs[mask]
    with policy.active():
        (logp * torch.linspace(-1, 1, len(logp))).sum().backward()
    head = zero_head(policy.model.get_output_embeddings().in_features)
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    whole = policy(batch((9, 9), (6, 6)), 0.9).logprobs.detach()  # without padding attention gets no mask
    made = engine.value_head(body_of(policy.model), head, dtype, policy.shared, policy.adapter)
    scores = made(given.input_ids, given.attention_mask)
    assert torch.equal(made.prefix_scores(given), scores[:, given.prompt_ids.shape[1] - 1 :])
    with made.active():
        (scores[real] * torch.linspace(-1, 1, int(real.sum()))).sum().backward()
    found = [p.grad for p in made.trained_parameters().values() if p.grad is not None]
    return [logp.detach(), stats.entropy[mask], whole, scores[real].detach(), *found]


def drawn(engine: Engine, kind: str, dtype: torch.dtype, adapter: bool) -> Rollout:
    """Padded prompts in groups of four whose rows end one by one."""
    policy = policy_of(engine, kind, dtype, adapter)
    settings = {"noise": Noise(0, "rollout"), "max_new_tokens": 20, "temperature": 1.5, "samples_per_prompt": 4}
    return sample(policy, tiny.chat(), tiny.prompts(5), **settings)


expected_reading, expected_rollout = cache(read), cache(drawn)  # of the reference engine


def distance(found: list[Tensor], truth: list[Tensor]) -> float:
    """Root mean square over tensors of each one's distance, relative to its norm or, of those near 0, to the largest's.

    Some gradients are 0 by theory: a softmax does not see what is added to all of its scores, as keys' biases are.
    """
    floor = 1e-2 * max(float(t.norm()) for t in truth[FIGURES:])
    parts = [float((a - b).norm() / max(float(b.norm()), floor)) for a, b in zip(found, truth, strict=True)]
    return (sum(part**2 for part in parts) / len(parts)) ** 0.5


def same_reading(found: list[Tensor], truth: list[Tensor]) -> None:
    """To 2e-5 nats, and to 1e-4 of each gradient's largest entry; of one that is 0 by theory, see `distance`."""
    largest = max(float(t.abs().max()) for t in truth[FIGURES:])
    for place, (a, b) in enumerate(zip(found, truth, strict=True)):
        size = float(b.abs().max())
        within = 2e-5 * max(1.0, size) if place < FIGURES else 1e-4 * size + 1e-6 * largest
        torch.testing.assert_close(a, b, rtol=0, atol=within)


def gap(rollout: Rollout, kind: str, adapter: bool) -> float:
    """Mean distance of sampling's log-probabilities from those of the reference engine in fp32, nats."""
    exact = policy_of(REFERENCE, kind, torch.float32, adapter, rounded=adapter)
    off = rollout.sampling_logprobs - exact.response_logprobs(rollout, 1.5)
    return float(off.abs().sum() / rollout.response_mask.sum())


@pytest.mark.parametrize(("case", "kind", "dtype", "adapter"), TRIED)
def test_it_is_the_reference(case, kind, dtype, adapter):
    if "prepacked_weights" in case.on[:1] and not PACKS:
        pytest.skip("this CPU does not compute in bf16")
    with alone(case):
        engine = Engine(limits=case.limits)
        if len(case.on) < len(paths.PATHS):
            report = engine.report(policy_of(engine, kind, dtype, adapter), cuda_graphs=True)["paths"]
            assert {name for name, path in report.items() if path["on"]} == set(case.on), report
        found = drawn(engine, kind, dtype, adapter) if case.samples else read(engine, kind, dtype, adapter)
    if case.samples and dtype is torch.float32:
        expected = expected_rollout(REFERENCE, kind, dtype, adapter)
        assert len(set(expected.lengths.tolist())) > 3
        assert torch.equal(found.response_ids, expected.response_ids) and torch.equal(found.ended, expected.ended)
        torch.testing.assert_close(found.sampling_logprobs, expected.sampling_logprobs, rtol=0, atol=5e-5)
    elif case.samples:
        theirs = gap(expected_rollout(REFERENCE, kind, dtype, adapter), kind, adapter)
        assert gap(found, kind, adapter) < 1.25 * theirs
    elif dtype is torch.float32:
        same_reading(found, expected_reading(REFERENCE, kind, dtype, adapter))
    else:
        truth = expected_reading(REFERENCE, kind, torch.float32, adapter, adapter)
        assert distance(found, truth) < 1.25 * distance(expected_reading(REFERENCE, kind, dtype, adapter), truth)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_other_kinds_say_why_not(case):
    with alone(case):
        for kind in set(EVERY) - set(case.kinds):
            policy = policy_of(Engine(), kind, case.dtypes[-1], case.adapters[-1])
            path = Engine().report(policy, cuda_graphs=True)["paths"][case.on[0]]
            assert not path["on"] and path["why"], (kind, path)


def test_the_reference_engine_takes_no_path():
    for adapter in (False, True):
        policy = policy_of(REFERENCE, "llama", HALF, adapter)
        report = REFERENCE.report(policy, cuda_graphs=True)
        assert report["kind"] == "reference" and report["paths"].keys() == paths.PATHS.keys()
        assert all(path == {"on": False, "why": "engine=reference"} for path in report["paths"].values())
        assert type(policy) is Policy and policy.for_sampling() is policy
        assert policy.model.config._attn_implementation == "sdpa"
        assert not policy.shared_tokens(torch.ones(2, 300)).any()
        assert not any(type(module).__module__.startswith("align") for module in policy.model.modules())


PUBLIC = {"shared_prompts", "rounded_weights", "roomy_cache", "sampling_copy", "kept_pages"}


@pytest.mark.parametrize("adapter", [False, True])
def test_on_other_versions_only_what_calls_no_private_function_is_on(adapter, monkeypatch):
    """As transformers renames things, and torch drops operators."""
    monkeypatch.setattr(compat, "TESTED", dict.fromkeys(compat.TESTED, ()))
    monkeypatch.delattr(LoraConfig, "_register_custom_module")
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    report = Engine().report(policy_of(Engine(), "llama", HALF, adapter), cuda_graphs=True)["paths"]
    assert {name for name, path in report.items() if path["on"]} <= PUBLIC
    said = {path["why"] for path in report.values()}
    assert any(f"{package} " in str(why) for package in ("torch", "peft")[: 1 + adapter] for why in said)
    whole = torch.float32
    same_reading(read(Engine(), "llama", whole, adapter), expected_reading(REFERENCE, "llama", whole, adapter))
    found, expected = (drawn(engine, "llama", HALF, adapter) for engine in (Engine(), REFERENCE))
    assert gap(found, "llama", adapter) < 1.25 * gap(expected, "llama", adapter)
