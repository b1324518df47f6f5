"""Decoding on tensors that stay where they are: the plain path's tokens and log-probabilities, for every such kind."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from transformers import DynamicCache

from align.config import RolloutConfig
from align.engine import sampling
from align.engine.fast import decoding
from align.engine.fast.captured import CAPTURED, Replayed, can_capture, has_fixed_steps
from align.engine.fast.decoding import DecodingLayer, OneNorm
from align.engine.policy import Policy
from align.engine.sampling import Noise, sample
from align.run import assembly
from align.types import Rollout
from tests import tiny
from tests.engine.reading import kind_of_model, lora

SETTINGS = {"noise": Noise(0, "rollout"), "max_new_tokens": 20, "temperature": 1.5}


def sampled(policy: Policy, group: int = 3, **more: object) -> Rollout:
    return sample(policy, tiny.chat(), tiny.prompts(5), samples_per_prompt=group, **SETTINGS | more)


def same(found: Rollout, expected: Rollout, within: float = 2e-5) -> None:
    assert torch.equal(found.response_ids, expected.response_ids)
    assert torch.equal(found.response_mask, expected.response_mask) and torch.equal(found.ended, expected.ended)
    torch.testing.assert_close(found.sampling_logprobs, expected.sampling_logprobs, rtol=0, atol=within)


@pytest.fixture
def fixed(monkeypatch) -> None:
    """The GPU's way of sampling, on a CPU: every step is run, none is captured."""
    monkeypatch.setattr(sampling, "can_capture", has_fixed_steps)


@pytest.mark.parametrize("kind", sorted(CAPTURED))
def test_it_samples_what_the_plain_path_samples(kind, fixed):
    """Padded prompts in groups; rows end one by one, and some never do."""
    policy = Policy(kind_of_model(kind), torch.float32)
    assert has_fixed_steps(policy.model)
    found, expected = sampled(policy), sampled(policy, cuda_graphs=False)
    lengths = expected.lengths.tolist()
    assert len(set(lengths)) > 3 and 20 in lengths and 2 < int(expected.ended.sum()) < len(lengths)
    assert len(set(expected.prompt_mask.sum(1).tolist())) > 1
    same(found, expected)


def test_eager_attention_and_single_tokens(fixed):
    policy = Policy(kind_of_model("llama"), torch.float32)
    policy.model.set_attn_implementation("eager")
    for more in ({}, {"max_new_tokens": 1}, {"max_new_tokens": 2, "decode_batch_size": 3}):
        same(sampled(policy, **more), sampled(policy, cuda_graphs=False, **more))


def test_it_stops_soon_after_the_last_row_has_ended(fixed, monkeypatch):
    """Not at once: to ask is to wait for the GPU."""
    policy, steps = Policy(kind_of_model("llama"), torch.float32), []
    monkeypatch.setattr(tiny.chat(), "end_ids", tuple(range(40)))
    call = Replayed.__call__
    monkeypatch.setattr(Replayed, "__call__", lambda self: (steps.append(1), call(self)))
    found = sampled(policy)
    assert found.response_ids.shape[1] == 1 and found.ended.all() and not steps
    monkeypatch.setattr(tiny.chat(), "end_ids", tuple(range(0, 40, 2)))
    found = sampled(policy, max_new_tokens=200)
    longest = int(found.lengths.max())
    assert found.ended.all() and 1 < longest < 100
    assert longest - 1 <= len(steps) < longest + sampling.ASKED_EVERY


def test_rows_that_ended_leave_where_that_is_worth_a_capture(fixed, monkeypatch):
    """As soon as it is asked after any; what is drawn stays the same."""
    policy, made = Policy(kind_of_model("llama"), torch.float32), []
    begin = Replayed.__init__
    monkeypatch.setattr(Replayed, "__init__", lambda self, *given: (made.append(given), begin(self, *given))[1])
    expected, whole = sampled(policy, cuda_graphs=False, max_new_tokens=60), sampled(policy, max_new_tokens=60)
    assert len(made) == 1
    monkeypatch.setattr(sampling, "CAPTURE_BYTES", 0)
    found = sampled(policy, max_new_tokens=60)
    asked = range(1, 60, sampling.ASKED_EVERY)  # after so many tokens
    lengths = expected.lengths[expected.ended].tolist()
    left = {next((a for a in asked if a >= n), None) for n in lengths} - {None}
    assert len(made) == 2 + len(left) > 3
    for rollout in (whole, found):
        same(rollout, expected)


def test_room_holds_numbers_and_is_hidden():
    """Steps beside those of a cache that grows, one row padded; the room is a multiple of 16 keys."""
    policy = Policy(kind_of_model("qwen2"), torch.float32)
    ids, mask = torch.randint(4, 30, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    with torch.no_grad():
        (_, grows), (_, held) = policy.prefill(ids, mask), policy.prefill(ids, mask)
        with policy.decoding(held, mask, 5) as decoder:
            for t in range(5):
                tokens = torch.tensor([4 + t, 20 - t])
                mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
                expected = policy.decode(tokens, mask, grows)
                torch.testing.assert_close(decoder.step(tokens), expected, rtol=0, atol=1e-5)
                assert held.layers[0].keys.shape == held.layers[1].values.shape == (2, 2, 16, 8)


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("mixtral", {}, "experts"),
        ("qwen2_moe", {}, "experts"),
        ("mistral", {"sliding_window": 6}, "layers that let keys go"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "asks for a length"),
        ("gpt_neox", {}, "not read"),
    ],
)
def test_other_kinds_decode_the_plain_way(kind, settings, why):
    assert not has_fixed_steps(kind_of_model(kind, **settings)), why


def test_nothing_is_captured_on_a_cpu():
    model = kind_of_model("llama")
    assert has_fixed_steps(model) and not can_capture(model)
    model.config._attn_implementation = "flash_attention_2"  # takes no finished mask
    assert not has_fixed_steps(model)


def test_quantized_models_and_remote_code_decode_the_plain_way():
    model = kind_of_model("llama")
    model.is_quantized = True
    assert not has_fixed_steps(model)

    class Remote(type(model)):
        __module__ = "transformers_modules.someone.modeling_llama"

    assert not has_fixed_steps(Remote(model.config)) and has_fixed_steps(kind_of_model("llama"))


@pytest.mark.parametrize(
    ("kind", "asked", "captured"), [("llama", True, True), ("mixtral", True, False), ("llama", False, False)]
)
def test_a_run_says_whether_steps_are_captured(kind, asked, captured, monkeypatch):
    monkeypatch.setattr(assembly, "can_capture", has_fixed_steps)
    facts, said = {}, []
    config = SimpleNamespace(rollout=RolloutConfig(cuda_graphs=asked))
    site = SimpleNamespace(device=torch.device("cuda"), config=config, record=facts, say=said.append)
    policy = Policy(kind_of_model(kind), torch.float32)
    assembly.note_decoding(site, policy)
    assert facts == {"cuda_graphs": captured}
    assert [line.partition(";")[0] for line in said] == (
        ["rollout.cuda_graphs: not for this MixtralForCausalLM as it is loaded"] if asked and not captured else []
    )
    facts.clear()
    site.device = tiny.CPU
    assembly.note_decoding(site, policy)
    assert not facts


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_other_accelerators_have_no_layers_of_ours(device):
    model = mock.Mock(device=torch.device(device))
    model.config._attn_implementation = "sdpa"
    assert decoding.form(model, torch.float16) is None
    model.device = torch.device("cuda")
    assert decoding.form(model, torch.float16) is False and decoding.form(model, torch.float32) is None


# --- a GPU's layers of our own ----------------------------------------------------------------------------------------


@pytest.fixture
def unpacked(fixed, monkeypatch) -> None:
    """The form that layers of our own have on a GPU."""
    monkeypatch.setattr(decoding, "form", lambda _model, dtype: None if dtype is torch.float32 else False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_layers_with_stored_weights_are_no_farther_from_fp32(kind, dtype, unpacked):
    """Logits after a prompt and five more tokens, weights stored in the type or in fp32 under autocast."""
    for stored in (dtype, torch.float32):
        exact = Policy(kind_of_model(kind).to(stored).float(), torch.float32)
        policy = Policy(kind_of_model(kind).to(stored), dtype)
        copy = policy.for_sampling()
        layers = copy.model.model.layers
        assert all(type(layer) is DecodingLayer and type(layer.norms[0]) is OneNorm for layer in layers)
        assert layers[0].read.weight.dtype is dtype and not hasattr(copy.model, "align_cache")
        reference, plain, found = (six_logits(p) for p in (exact, policy, copy))
        size = float(reference.abs().max())
        off_plain, off = (float((x.float() - reference).abs().mean()) / size for x in (plain, found))
        assert 0 < off < 1.2 * off_plain + 1e-4


def six_logits(policy: Policy) -> torch.Tensor:
    """(6, 4, V)"""
    generator = torch.Generator().manual_seed(0)
    ids, more = (torch.randint(4, 30, (4, n), generator=generator) for n in (9, 5))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        logits, held = policy.prefill(ids, mask)
        assert type(held) is DynamicCache
        found = [logits.clone()]
        with policy.decoding(held, mask, 5) as decoder:
            found += [decoder.step(more[:, t]).clone() for t in range(5)]
    return torch.stack(found)


def test_the_copy_has_the_adapter_and_shares_the_rest(unpacked):
    policy = lora("llama")
    policy.model.to(torch.bfloat16)
    policy.dtype = torch.bfloat16
    policy.model.config._attn_implementation = "sdpa"
    with_adapter = six_logits(policy.for_sampling())
    bare = six_logits(Policy(policy.model, torch.bfloat16, policy._shared, None).for_sampling())
    plain = six_logits(policy)
    assert 20 * float((with_adapter - plain).abs().mean()) < float((bare - plain).abs().mean())
    copy = policy.for_sampling().model
    assert copy.get_input_embeddings().weight is policy.model.get_input_embeddings().weight
    assert copy.lm_head.weight.data_ptr() == policy.model.lm_head.weight.data_ptr()  # untouched: not even copied


def test_fp32_has_no_copy(unpacked):
    policy = Policy(kind_of_model("llama"), torch.float32)
    assert policy.for_sampling() is policy and not can_capture(policy.model)
