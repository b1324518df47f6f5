"""Decoding with layers of our own: transformers' numbers, whoever shares a prompt, and theirs for all other models."""

from __future__ import annotations

from types import MethodType
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from align.config import AdapterConfig
from align.engine.engine import Engine
from align.engine.fast import decoding, prepacked
from align.engine.fast.decoding import DecodingLayer, why_not
from align.engine.fast.limits import Limits
from align.engine.fast.prepacked import StoredLinear
from align.engine.fast.prompt_cache import Grid, PromptCache
from align.engine.reference import Policy
from align.engine.sampling import Noise, sample
from align.models.adapters import SharedBase
from align.types import Rollout
from tests import tiny
from tests.engine.reading import with_adapter

SETTINGS = {"noise": Noise(0, "rollout"), "max_new_tokens": 20, "temperature": 2.0}


@pytest.fixture
def plain(monkeypatch):
    """Layers of our own also in fp32, where their numbers can be compared closely."""
    monkeypatch.setattr(prepacked, "why_not", lambda *_: None)
    monkeypatch.setattr(decoding, "PackedLinear", StoredLinear)


def policy(kind: str = "llama", *, adapter: bool = False, **limits: int) -> Policy:
    """Of a random model with two layers, loaded as a run does; with an adapter that has moved."""
    engine = Engine(limits=Limits(**limits))
    model = tiny.causal(kind)
    return with_adapter(model, torch.float32, 6, engine) if adapter else engine.policy(model, torch.float32)


def sampled(made: Policy, group: int = 4, prompts: int = 5, at_once: int | None = None) -> Rollout:
    starts = tiny.prompts(prompts)
    return sample(made, tiny.chat(), starts, samples_per_prompt=group, decode_batch_size=at_once, **SETTINGS)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def same(found: Rollout, expected: Rollout, within: float = 2e-5) -> None:
    assert torch.equal(found.response_ids, expected.response_ids)
    torch.testing.assert_close(found.sampling_logprobs, expected.sampling_logprobs, rtol=0, atol=within)


@pytest.mark.parametrize(("prompts", "at_once"), [(1, None), (2, None), (5, 4), (5, 8)])
def test_down_to_one_prompt_with_several_rows(prompts, at_once, plain):
    """A rollout of one, and blocks of one or two."""
    made = policy(held_once_from=1)
    found = sampled(made, 8 if at_once is None else 4, prompts, at_once)
    same(found, sampled(Policy(made.model, torch.float32), 8 if at_once is None else 4, prompts, at_once))


def test_an_adapter_is_part_of_the_products(plain):
    """With its scale, 6 / 4; of the bare base the responses would be others."""
    made = policy(adapter=True)
    same(sampled(made), sampled(Policy(made.model, torch.float32, made.shared, made.adapter)))


@pytest.mark.parametrize("adapter", [False, True])
def test_the_model_is_not_written_to(adapter, plain):
    made = policy(adapter=adapter)
    before = {name: t.detach().clone() for name, t in tensors(made.model).items()}
    layers = list(made.model.model.layers)
    copy = made.for_sampling()
    sampled(made)
    assert list(made.model.model.layers) == layers and not hasattr(made.model, "align_cache")
    assert all(torch.equal(t, before[name]) for name, t in tensors(made.model).items())
    assert copy.model.get_input_embeddings().weight is made.model.get_input_embeddings().weight


def test_the_reference_is_sampled_without_the_adapter(plain):
    made = policy(adapter=True)
    reference = Engine().policy(made.model, torch.float32, made.shared, None)
    bare = policy()
    assert type(reference.for_sampling().model.model.layers[0]) is DecodingLayer
    same(sampled(reference), sampled(bare))
    assert not torch.equal(sampled(reference).response_ids, sampled(made).response_ids)


def test_a_prompt_is_held_once_for_its_group(plain):
    """And not at all when its last row is gone."""
    copy = policy(held_once_from=8).for_sampling()
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


def test_short_prompts_and_single_responses_are_copied(plain):
    copy = policy(held_once_from=9).for_sampling()
    for length, repeats in ((8, 4), (9, 1)):
        with torch.no_grad():
            ids = torch.full((2, length), 5)
            _, held = copy.prefill(ids, torch.ones_like(ids))
            held.batch_repeat_interleave(repeats)
        assert type(held) is PromptCache and held.grid is None and len(held.layers[0].keys) == 2 * repeats


def test_a_read_prompt_holds_its_keys_and_values_alone(plain):
    """Not the whole product that they are slices of."""
    copy = policy().for_sampling()
    ids = torch.full((2, 8), 5)
    with torch.no_grad():
        _, held = copy.prefill(ids, torch.ones_like(ids))
    for tensor in (held.layers[0].keys, held.layers[0].values):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_rows_may_come_in_any_order(plain):
    ids = torch.randint(4, 30, (3, 8), generator=torch.Generator().manual_seed(0))
    order, found = torch.tensor([7, 0, 8, 2, 1]), []
    for made in (policy(held_once_from=8).for_sampling(), policy()):
        with torch.no_grad():
            _, held = made.prefill(ids, torch.ones_like(ids))
            held.batch_repeat_interleave(3)
            made.decode(torch.arange(4, 13), torch.ones(9, 9, dtype=torch.long), held)
            held.batch_select_indices(order)
            found.append(made.decode(torch.arange(20, 25), torch.ones(5, 10, dtype=torch.long), held))
    torch.testing.assert_close(*found, rtol=0, atol=2e-5)


def test_another_cache_is_refused(plain):
    copy = policy().for_sampling()
    with pytest.raises(TypeError, match="cache: given DynamicCache; allowed: PromptCache"):
        copy.model(input_ids=torch.tensor([[5, 6]]), past_key_values=DynamicCache(config=copy.model.config))


def test_a_forward_that_was_bound_to_the_model_is_not_the_copys(plain):
    """Accelerate binds one that runs under autocast to the model it prepares."""
    made = policy()
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


def test_other_attention_quantized_weights_and_adapters_elsewhere_are_left_to_transformers(plain):
    def said(made: Policy) -> str | None:
        return why_not(made.model, torch.float32)

    assert said(policy()) is None
    assert "CPU attention" in said(Policy(tiny.causal(), torch.float32))

    class Quantized(nn.Linear):
        pass

    marked = policy()
    marked.model.is_quantized = True  # tensors of another kind in plain layers
    assert said(marked) == "quantized weights"
    quantized = policy()
    quantized.model.model.layers[1].mlp.up_proj.__class__ = Quantized
    assert said(quantized) == "layers that are not the kind's own"
    made = policy()
    SharedBase(made.model, AdapterConfig(name="lora", r=4, alpha=6, target_modules=["q_proj", "lm_head"]))
    assert said(made) == "an adapter outside the decoder layers"


def test_elsewhere_than_on_a_cpu_in_bf16_nothing_is_copied():
    assert why_not(policy().model, torch.float32) and why_not(policy().model, torch.float16)
    assert why_not(policy().model.to("meta"), torch.bfloat16) == "the model is on meta"
