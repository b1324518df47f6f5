"""Decoding with layers of our own: transformers' numbers, whoever shares a prompt, and theirs for all other models."""

from __future__ import annotations

from types import MethodType
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache

from align.config import AdapterConfig, ModelConfig
from align.engine import cache
from align.engine.fast import decoding, prompt_cache
from align.engine.fast.decoding import DecodingLayer, decoding_copy
from align.engine.fast.prepacked import can_pack
from align.engine.fast.prompt_cache import Grid, PromptCache
from align.engine.policy import Policy
from align.engine.sampling import Noise, sample
from align.models.adapters import POLICY, SharedBase
from align.models.load import load_causal_lm
from align.types import Rollout
from tests import tiny
from tests.engine.reading import with_adapter

KINDS = {
    "llama": {},
    "qwen2": {},
    "mistral": {"sliding_window": None},
    "biased": {"attention_bias": True, "mlp_bias": True, "head_dim": 8, "tie_word_embeddings": True},
}
SETTINGS = {"noise": Noise(0, "rollout"), "max_new_tokens": 20, "temperature": 2.0}


class Product(nn.Module):
    """In place of PackedLinear, for any type and CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight.detach(), bias

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self.weight, self.bias)


@pytest.fixture
def plain(monkeypatch):
    """Layers of our own also in fp32, where their numbers can be compared closely."""
    monkeypatch.setattr(decoding, "can_pack", lambda *_: True)
    monkeypatch.setattr(decoding, "PackedLinear", Product)


def policy(kind: str, folder, *, adapter: bool = False, dtype: torch.dtype = torch.float32) -> Policy:
    """Of a random model with two layers, loaded as a run does; with an adapter that has moved."""
    torch.manual_seed(0)
    shape = "llama" if kind == "biased" else kind
    model = AutoModelForCausalLM.from_config(tiny.model_config(shape, **KINDS.get(kind, {})))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    loaded = load_causal_lm(ModelConfig(path=str(folder)), dtype=torch.float32, device=tiny.CPU)
    return with_adapter(loaded.to(dtype), dtype, alpha=6) if adapter else Policy(loaded, dtype)


def sampled(made: Policy, group: int = 4, prompts: int = 5, at_once: int | None = None) -> Rollout:
    starts = tiny.prompts(prompts)
    return sample(made, tiny.chat(), starts, samples_per_prompt=group, decode_batch_size=at_once, **SETTINGS)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def same(found: Rollout, expected: Rollout, within: float = 2e-5) -> None:
    assert torch.equal(found.response_ids, expected.response_ids)
    torch.testing.assert_close(found.sampling_logprobs, expected.sampling_logprobs, rtol=0, atol=within)


@pytest.mark.parametrize("shared_from", [1, 1000])
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_samples_what_the_model_samples(kind, adapter, shared_from, plain, monkeypatch, tmp_path):
    """Padded prompts, groups of four whose rows end one by one, room for three tokens at a time."""
    monkeypatch.setattr(prompt_cache, "HELD_ONCE_FROM", shared_from)
    monkeypatch.setattr(cache, "ROOM", 3)
    made = policy(kind, tmp_path, adapter=adapter)
    copy = made.for_sampling()
    assert all(type(layer) is DecodingLayer for layer in copy.model.model.layers)
    found = sampled(made)
    monkeypatch.setattr(Policy, "for_sampling", lambda self: self)
    expected = sampled(made)
    assert len(set(expected.lengths.tolist())) > 4 and int(expected.ended.sum()) > 5
    same(found, expected)


@pytest.mark.parametrize(("prompts", "at_once"), [(1, None), (2, None), (5, 4), (5, 8)])
def test_down_to_one_prompt_with_several_rows(prompts, at_once, plain, monkeypatch, tmp_path):
    """A rollout of one, and blocks of one or two."""
    monkeypatch.setattr(prompt_cache, "HELD_ONCE_FROM", 1)
    made = policy("llama", tmp_path)
    found = sampled(made, 8 if at_once is None else 4, prompts, at_once)
    monkeypatch.setattr(Policy, "for_sampling", lambda self: self)
    same(found, sampled(made, 8 if at_once is None else 4, prompts, at_once))


@pytest.mark.parametrize("adapter", [False, True])
def test_the_model_is_not_written_to(adapter, plain, tmp_path):
    made = policy("llama", tmp_path, adapter=adapter)
    before = {name: t.detach().clone() for name, t in tensors(made.model).items()}
    layers = list(made.model.model.layers)
    copy = made.for_sampling()
    sampled(made)
    assert list(made.model.model.layers) == layers and not hasattr(made.model, "align_cache")
    assert all(torch.equal(t, before[name]) for name, t in tensors(made.model).items())
    assert copy.model.get_input_embeddings().weight is made.model.get_input_embeddings().weight


def test_the_reference_is_sampled_without_the_adapter(plain, tmp_path):
    made = policy("llama", tmp_path, adapter=True)
    reference = Policy(made.model, torch.float32, made._shared, None)
    bare = policy("llama", tmp_path)
    assert type(reference.for_sampling().model.model.layers[0]) is DecodingLayer
    same(sampled(reference), sampled(bare))
    assert not torch.equal(sampled(reference).response_ids, sampled(made).response_ids)


def test_a_prompt_is_held_once_for_its_group(plain, monkeypatch, tmp_path):
    """And not at all when its last row is gone."""
    monkeypatch.setattr(prompt_cache, "HELD_ONCE_FROM", 8)
    copy = policy("llama", tmp_path).for_sampling()
    ids = torch.randint(4, 30, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, held = copy.prefill(ids, torch.ones_like(ids))
        held.batch_repeat_interleave(4)
        copy.decode(torch.arange(4, 16), torch.ones(12, 9, dtype=torch.long), held)
        layer = held.layers[1]
        assert layer.keys.shape[:3] == layer.values.shape[:3] == (3, 2, 8) and held.get_seq_length() == 9
        assert layer.keys.dtype is torch.float32 and layer._own_keys.shape[0] == 12
        assert layer.keys.is_contiguous() and layer.values.is_contiguous()  # each product would copy them else
        held.batch_select_indices(torch.tensor([0, 1, 3, 8]))
        assert layer.keys.shape[0] == 2 and layer._own_keys.shape[0] == 4 and held.grid.slots == 3


def test_short_prompts_and_single_responses_are_copied(plain, monkeypatch, tmp_path):
    monkeypatch.setattr(prompt_cache, "HELD_ONCE_FROM", 9)
    copy = policy("llama", tmp_path).for_sampling()
    for length, repeats in ((8, 4), (9, 1)):
        with torch.no_grad():
            ids = torch.full((2, length), 5)
            _, held = copy.prefill(ids, torch.ones_like(ids))
            held.batch_repeat_interleave(repeats)
        assert type(held) is PromptCache and held.grid is None and len(held.layers[0].keys) == 2 * repeats


def test_a_read_prompt_holds_its_keys_and_values_alone(plain, tmp_path):
    """Not the whole product that they are slices of."""
    copy = policy("llama", tmp_path).for_sampling()
    ids = torch.full((2, 8), 5)
    with torch.no_grad():
        _, held = copy.prefill(ids, torch.ones_like(ids))
    for tensor in (held.layers[0].keys, held.layers[0].values):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_rows_may_come_in_any_order(plain, monkeypatch, tmp_path):
    monkeypatch.setattr(prompt_cache, "HELD_ONCE_FROM", 8)
    ids = torch.randint(4, 30, (3, 8), generator=torch.Generator().manual_seed(0))
    order, found = torch.tensor([7, 0, 8, 2, 1]), []
    for made in (policy("llama", tmp_path).for_sampling(), policy("llama", tmp_path)):
        with torch.no_grad():
            _, held = made.prefill(ids, torch.ones_like(ids))
            held.batch_repeat_interleave(3)
            made.decode(torch.arange(4, 13), torch.ones(9, 9, dtype=torch.long), held)
            held.batch_select_indices(order)
            found.append(made.decode(torch.arange(20, 25), torch.ones(5, 10, dtype=torch.long), held))
    torch.testing.assert_close(*found, rtol=0, atol=2e-5)


def test_another_cache_is_refused(plain, tmp_path):
    copy = policy("llama", tmp_path).for_sampling()
    with pytest.raises(TypeError, match="cache: given DynamicCache; allowed: PromptCache"):
        copy.model(input_ids=torch.tensor([[5, 6]]), past_key_values=DynamicCache(config=copy.model.config))


def test_a_forward_that_was_bound_to_the_model_is_not_the_copys(plain, tmp_path):
    """Accelerate binds one that runs under autocast to the model it prepares."""
    made = policy("llama", tmp_path)
    made.model.forward = MethodType(type(made.model).forward, made.model)
    copy = made.for_sampling()
    with mock.patch.object(DecodingLayer, "forward", side_effect=ZeroDivisionError), pytest.raises(ZeroDivisionError):
        copy.logits(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.long), 1)
    assert "forward" in vars(made.model)


@pytest.mark.parametrize("which", [[0, 0, 1, 1], [0, 1, 1, 1, 2], [0, 0, 0], [1, 0, 1, 0], [2, 0, 1, 0]])
def test_rows_lie_with_their_prompt_and_come_back(which):
    grid = Grid.of(torch.tensor(which))
    rows = torch.arange(1.0, len(which) + 1)
    laid = grid.laid_out(rows)
    assert laid.shape == (grid.prompts, grid.slots)
    assert torch.equal(grid.rows(laid), rows)
    for prompt in range(grid.prompts):
        assert [x for x in laid[prompt].tolist() if x] == [i + 1 for i, w in enumerate(which) if w == prompt]


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("group", [1, 4])
def test_in_bf16_it_is_as_near_to_fp32_as_the_model(group, adapter, monkeypatch, tmp_path):
    """Mean distance of log-probabilities from fp32's, with prompts held once: 1.2 times transformers' at most."""
    monkeypatch.setattr(prompt_cache, "HELD_ONCE_FROM", 1)
    made = policy("llama", tmp_path, dtype=torch.bfloat16, adapter=adapter)
    if not can_pack(made.model, torch.bfloat16):
        pytest.skip("this CPU does not compute in bf16")
    exact = policy("llama", tmp_path, adapter=adapter)
    far = []
    for ours in (True, False):
        if not ours:
            monkeypatch.setattr(Policy, "for_sampling", lambda self: self)
        drawn = sampled(made, group, 10)
        gap = (drawn.sampling_logprobs - exact.response_logprobs(drawn, SETTINGS["temperature"])).abs()
        far.append(float(gap.sum() / drawn.response_mask.sum()))
    assert 0 < far[0] < 1.2 * far[1]


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt", "sliding"])
def test_other_kinds_of_model_are_left_to_transformers(kind, plain, monkeypatch, tmp_path):
    monkeypatch.setitem(KINDS, "mistral", {})
    made = policy("mistral" if kind == "sliding" else kind, tmp_path)
    assert decoding_copy(made.model, torch.float32, None) is None


def test_so_are_other_attention_quantized_weights_and_adapters_elsewhere(plain, tmp_path):
    eager = policy("llama", tmp_path)
    eager.model.set_attn_implementation("eager")
    assert decoding_copy(eager.model, torch.float32, None) is None

    class Quantized(nn.Linear):
        pass

    assert decoding_copy(policy("llama", tmp_path).model, torch.float32, None) is not None
    marked = policy("llama", tmp_path)
    marked.model.is_quantized = True  # tensors of another kind in plain layers
    assert decoding_copy(marked.model, torch.float32, None) is None
    quantized = policy("llama", tmp_path)
    quantized.model.model.layers[1].mlp.up_proj.__class__ = Quantized
    assert decoding_copy(quantized.model, torch.float32, None) is None
    model = policy("llama", tmp_path).model
    SharedBase(model, AdapterConfig(name="lora", r=4, alpha=6, target_modules=["q_proj", "lm_head"]))
    assert decoding_copy(model, torch.float32, POLICY) is None


def test_elsewhere_than_on_a_cpu_in_bf16_nothing_is_copied(tmp_path):
    assert decoding_copy(policy("llama", tmp_path).model, torch.float32, None) is None
    assert decoding_copy(policy("llama", tmp_path).model, torch.float16, None) is None
    elsewhere = policy("llama", tmp_path).model.to("meta")
    assert decoding_copy(elsewhere, torch.bfloat16, None) is None
