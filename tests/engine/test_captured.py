"""Decoding on tensors that stay where they are: the plain path's tokens and log-probabilities, for every such kind."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from transformers import DynamicCache

from align.config import EngineKind, RolloutConfig
from align.engine.engine import Engine
from align.engine.fast import captured, decoding
from align.engine.fast.captured import FixedDecoder, Replayed, varying
from align.engine.fast.decoding import DecodingLayer, OneNorm
from align.engine.fast.limits import Limits
from align.engine.fast.policy import FastPolicy
from align.engine.reference import Policy
from align.engine.sampling import Noise, sample
from align.run import assembly
from align.types import Rollout
from tests import tiny
from tests.engine.reading import kind_of_model, with_adapter

LOOK_EVERY = Limits().look_every
SETTINGS = {"noise": Noise(0, "rollout"), "max_new_tokens": 20, "temperature": 1.5}


def sampled(policy: Policy, group: int = 3, **more: object) -> Rollout:
    return sample(policy, tiny.chat(), tiny.prompts(5), samples_per_prompt=group, **SETTINGS | more)


def same(found: Rollout, expected: Rollout, within: float = 2e-5) -> None:
    assert torch.equal(found.response_ids, expected.response_ids)
    assert torch.equal(found.response_mask, expected.response_mask) and torch.equal(found.ended, expected.ended)
    torch.testing.assert_close(found.sampling_logprobs, expected.sampling_logprobs, rtol=0, atol=within)


def fast(kind: str, **limits: int) -> FastPolicy:
    """Under transformers' own attention, as on a GPU."""
    return FastPolicy(kind_of_model(kind), torch.float32, limits=Limits(**limits))


@pytest.fixture
def fixed(monkeypatch) -> None:
    """The GPU's way of sampling, on a CPU: every step is run, none is captured."""
    monkeypatch.setattr(captured, "why_not", varying)


def test_eager_attention_and_single_tokens(fixed):
    policy = fast("llama")
    policy.model.set_attn_implementation("eager")
    for more in ({}, {"max_new_tokens": 1}, {"max_new_tokens": 2, "decode_batch_size": 3}):
        same(sampled(policy, **more), sampled(policy, cuda_graphs=False, **more))


def test_it_stops_soon_after_the_last_row_has_ended(fixed, monkeypatch):
    """Not at once: to ask is to wait for the GPU."""
    policy, steps = fast("llama"), []
    monkeypatch.setattr(tiny.chat(), "end_ids", tuple(range(40)))
    call = Replayed.__call__
    monkeypatch.setattr(Replayed, "__call__", lambda self: (steps.append(1), call(self)))
    found = sampled(policy)
    assert found.response_ids.shape[1] == 1 and found.ended.all() and not steps
    monkeypatch.setattr(tiny.chat(), "end_ids", tuple(range(0, 40, 2)))
    found = sampled(policy, max_new_tokens=200)
    longest = int(found.lengths.max())
    assert found.ended.all() and 1 < longest < 100
    assert longest - 1 <= len(steps) < longest + LOOK_EVERY


def test_rows_that_ended_leave_where_that_is_worth_a_capture(fixed, monkeypatch):
    """As soon as it is asked after any; what is drawn stays the same."""
    policy, made = fast("llama"), []
    begin = Replayed.__init__
    monkeypatch.setattr(Replayed, "__init__", lambda self, *given: (made.append(given), begin(self, *given))[1])
    expected, whole = sampled(policy, cuda_graphs=False, max_new_tokens=60), sampled(policy, max_new_tokens=60)
    assert len(made) == 1
    found = sampled(fast("llama", capture_bytes=0), max_new_tokens=60)
    asked = range(1, 60, LOOK_EVERY)  # after so many tokens
    lengths = expected.lengths[expected.ended].tolist()
    left = {next((a for a in asked if a >= n), None) for n in lengths} - {None}
    assert len(made) == 2 + len(left) > 3
    for rollout in (whole, found):
        same(rollout, expected)


def test_room_holds_numbers_and_is_hidden():
    """Steps beside those of a cache that grows, one row padded; the room is a multiple of 16 keys."""
    policy = fast("qwen2")
    ids, mask = torch.randint(4, 30, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    with torch.no_grad():
        (_, grows), (_, held) = policy.prefill(ids, mask), policy.prefill(ids, mask)
        decoder = FixedDecoder(policy.step, held, mask, 5, torch.float32)
        for t in range(5):
            tokens = torch.tensor([4 + t, 20 - t])
            mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
            expected = policy.decode(tokens, mask, grows)
            torch.testing.assert_close(decoder.step(tokens), expected, rtol=0, atol=1e-5)
            assert held.layers[0].keys.shape == held.layers[1].values.shape == (2, 2, 16, 8)


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("mixtral", {}, "none of the kinds"),
        ("qwen2_moe", {}, "none of the kinds"),
        ("mistral", {"sliding_window": 6}, "lets keys go"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "longest length"),
        ("gpt_neox", {}, "none of the kinds"),
    ],
)
def test_other_kinds_decode_the_plain_way(kind, settings, why):
    assert why in varying(kind_of_model(kind, **settings))


def test_nothing_is_captured_on_a_cpu():
    model = kind_of_model("llama")
    assert varying(model) is None and captured.why_not(model) == "the model is on cpu"
    model.config._attn_implementation = "flash_attention_2"  # takes no finished mask
    assert varying(model) == "its attention is flash_attention_2"


def test_quantized_models_and_remote_code_decode_the_plain_way():
    model = kind_of_model("llama")
    model.is_quantized = True
    assert varying(model) == "quantized weights"

    class Remote(type(model)):
        __module__ = "transformers_modules.someone.modeling_llama"

    assert varying(Remote(model.config)) and not varying(kind_of_model("llama"))


@pytest.mark.parametrize(
    ("kind", "asked", "engine", "why"),
    [
        ("llama", True, EngineKind.auto, None),
        ("mixtral", True, EngineKind.auto, "MixtralForCausalLM is none of the kinds whose code was read"),
        ("llama", False, EngineKind.auto, "rollout.cuda_graphs=false"),
        ("llama", True, EngineKind.reference, "engine=reference"),
    ],
)
def test_a_run_says_whether_steps_are_captured(kind, asked, engine, why, fixed):
    facts, said, made = {}, [], Engine(engine, "sdpa")
    config = SimpleNamespace(rollout=RolloutConfig(cuda_graphs=asked))
    site = SimpleNamespace(device=torch.device("cuda"), config=config, record=facts, say=said.append)
    policy = made.policy(kind_of_model(kind), torch.float32)
    assembly.note_engine(site, made, policy)
    assert facts["engine"]["paths"]["captured_steps"] == {"on": why is None, "why": why}
    assert len(said) == (kind == "mixtral") and all(why in line for line in said)
    site.device = tiny.CPU
    assembly.note_engine(site, made, policy)
    assert len(said) == (kind == "mixtral")


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_other_accelerators_have_no_layers_of_ours(device):
    model = mock.Mock(device=torch.device(device))
    model.config._attn_implementation = "sdpa"
    assert decoding.form_why_not(model, torch.float16) == f"the model is on {device}"
    model.device = torch.device("cuda")
    assert decoding.form_why_not(model, torch.float16) is None
    assert decoding.form_why_not(model, torch.float32) == "fp32 on a GPU"


# --- a GPU's layers of our own ----------------------------------------------------------------------------------------


@pytest.fixture
def unpacked(fixed, monkeypatch) -> None:
    """The form that layers of our own have on a GPU."""
    monkeypatch.setattr(decoding, "form_why_not", lambda _model, dtype: "fp32" if dtype is torch.float32 else None)
    monkeypatch.setattr(decoding, "packs", lambda _model: False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_layers_with_stored_weights_are_no_farther_from_fp32(kind, dtype, unpacked):
    """Logits after a prompt and five more tokens, weights stored in the type or in fp32 under autocast."""
    for stored in (dtype, torch.float32):
        exact = FastPolicy(kind_of_model(kind).to(stored).float(), torch.float32)
        policy = FastPolicy(kind_of_model(kind).to(stored), dtype)
        copy = policy.for_sampling()
        layers = copy.model.model.layers
        assert all(type(layer) is DecodingLayer and type(layer.norms[0]) is OneNorm for layer in layers)
        assert layers[0].read.weight.dtype is dtype and not hasattr(copy.model, "align_cache")
        reference, plain, found = (six_logits(p) for p in (exact, policy, copy))
        size = float(reference.abs().max())
        off_plain, off = (float((x.float() - reference).abs().mean()) / size for x in (plain, found))
        assert 0 < off < 1.2 * off_plain + 1e-4


def six_logits(policy: FastPolicy) -> torch.Tensor:
    """(6, 4, V)"""
    generator = torch.Generator().manual_seed(0)
    ids, more = (torch.randint(4, 30, (4, n), generator=generator) for n in (9, 5))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        logits, held = policy.prefill(ids, mask)
        assert type(held) is DynamicCache
        found = [logits.clone()]
        with policy.active():
            decoder = FixedDecoder(policy.step, held, mask, 5, policy.dtype)
            found += [decoder.step(more[:, t]).clone() for t in range(5)]
    return torch.stack(found)


def test_the_copy_has_the_adapter_and_shares_the_rest(unpacked):
    engine = Engine(attention="sdpa")
    policy = with_adapter(tiny.causal().to(torch.bfloat16), torch.bfloat16, engine=engine)
    adapted = six_logits(policy.for_sampling())
    bare = six_logits(engine.policy(policy.model, torch.bfloat16, policy.shared, None).for_sampling())
    plain = six_logits(policy)
    assert 20 * float((adapted - plain).abs().mean()) < float((bare - plain).abs().mean())
    copy = policy.for_sampling().model
    assert copy.get_input_embeddings().weight is policy.model.get_input_embeddings().weight
    assert copy.lm_head.weight.data_ptr() == policy.model.lm_head.weight.data_ptr()  # untouched: not even copied


def test_fp32_has_no_copy(unpacked):
    policy = fast("llama")
    assert policy.for_sampling() is policy
