"""Rows read without their padding, and behind prompts that are read once: what each row gives by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from align.engine import policy as policy_module
from align.engine import value_head as scorer
from align.engine.fast import cpu_attention as attention
from align.engine.fast.cpu_attention import reads_packed
from align.engine.fast.packed_rows import PADDED_FROM, Packed
from align.engine.inputs import shared_prompts
from align.engine.policy import Policy
from align.engine.value_head import ValueHead, body_of, zero_head
from align.types import Sequences
from tests import tiny
from tests.engine.reading import batch, gradients, kind_of_model, lora, read, same

OURS = [shape for shape in sorted(tiny.SHAPES) if reads_packed(tiny.causal(shape))]


def uneven() -> Sequences:
    """A row for each prompt."""
    return batch((9, 2, 5, 1), (3, 11, 1, 6))


def grouped() -> Sequences:
    """Prompts of 50 and 60 tokens with three and two responses, in mixed order."""
    return batch((50, 60), (3, 11, 1, 6, 8), (0, 1, 0, 0, 1))


def ours(kind: str, **settings: object) -> PreTrainedModel:
    model = kind_of_model(kind, **settings)
    attention.use_cpu_attention(model)
    return model


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (policy_module, scorer):
        monkeypatch.setattr(module, "reads_packed", lambda _model: False)


@pytest.mark.parametrize("given", [uneven(), grouped()], ids=["alone", "grouped"])
@pytest.mark.parametrize("make", [tiny.policy, lora])
@pytest.mark.parametrize("shape", OURS)
def test_a_policy_reads_what_counts_and_finds_the_same(shape, make, given, monkeypatch):
    """To 2e-5 nats; of each row all but its last token, of a shared prompt all but its last once."""
    policy = make(shape)
    found = read(policy, given)
    plainly(monkeypatch)
    monkeypatch.setattr(policy_module, "shared_prompts", lambda _batch: None)
    expected = read(policy, given)
    once = 49 + 59 - 3 * 49 - 2 * 59 if len(given) == 5 else 0
    assert found.tokens == int(given.attention_mask.sum()) - len(given) + once
    for of_ours, of_theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(of_ours, of_theirs, rtol=0, atol=2e-5)
    same(found.gradients, expected.gradients)


def test_nothing_is_outside_the_responses():
    given = uneven()
    stats, alone = tiny.policy()(given, 1.0), tiny.policy().response_logprobs(given, 1.0)
    outside = given.response_mask == 0
    assert not stats.logprobs[outside].any() and not stats.entropy[outside].any() and not alone[outside].any()
    assert (alone[~outside] < 0).all() and (stats.entropy[~outside] > 0).all()


@pytest.mark.parametrize("shape", OURS)
def test_a_scorer_reads_what_counts_and_finds_the_same(shape, monkeypatch):
    """Left and right padding; scores to 2e-5, gradients of the body and the head."""
    given, found = uneven(), []
    body = body_of(tiny.causal(shape))
    made = ValueHead(body, zero_head(body.config.hidden_size), torch.float32)
    nn.init.normal_(made.head.weight, generator=torch.Generator().manual_seed(1))
    real = given.attention_mask == 1
    for count in (int(real.sum()), real.numel()):
        counts: list[int] = []
        handle = body.embed_tokens.register_forward_hook(lambda _m, inputs, _o, c=counts: c.append(inputs[0].numel()))
        made.zero_grad()
        scores = made(given.input_ids, given.attention_mask)
        (scores[real] * torch.linspace(-1, 1, int(real.sum()))).sum().backward()
        handle.remove()
        assert scores.shape == real.shape and counts == [count]
        found.append((scores[real].detach(), gradients(made)))
        plainly(monkeypatch)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=2e-5)
    same(found[0][1], found[1][1])


def test_checkpointed_activations_are_the_same_and_prompts_still_shared():
    policy, given = tiny.policy(), grouped()
    expected = read(policy, given)
    policy.model.activation_checkpointing_enable()
    found = read(policy, given)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=0)
    same(found.gradients, expected.gradients)
    assert found.tokens == expected.tokens


@pytest.mark.parametrize("keys", [0, 10**6])
def test_through_products_and_through_torchs_kernel(keys, monkeypatch):
    policy, given = tiny.policy(), grouped()
    expected = read(policy, given)
    monkeypatch.setattr(attention, "MOST_KEYS", keys)
    found = read(policy, given)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
    same(found.gradients, expected.gradients)


@pytest.mark.parametrize("given", [uneven(), grouped()], ids=["alone", "grouped"])
def test_in_bf16_it_is_as_near_to_fp32_as_reading_the_padding_too(given, monkeypatch):
    """Mean distance of log-probabilities from fp32's, 1.2 times the plain path's at most."""
    model = tiny.causal("llama")
    exact = Policy(model, torch.float32)(given, 1.0).logprobs
    mask, distances = given.response_mask == 1, []
    for _ in range(2):
        logp = Policy(model, torch.bfloat16)(given, 1.0).logprobs
        distances.append(float((logp - exact)[mask].abs().mean()))
        plainly(monkeypatch)
    assert 0 < distances[0] < 1.2 * distances[1]


def test_little_padding_is_read():
    """As taking rows apart for attention costs more."""
    full = batch((5, 5), (15, 15))
    assert Packed.of_responses(full, None) is None
    for short, packs in ((15 - int(PADDED_FROM * 19 * 2), False), (15 - int(PADDED_FROM * 19 * 2) - 1, True)):
        given = batch((5, 5), (15, short))
        assert (Packed.of_responses(given, None) is not None) == packs
    ids, mask = full.input_ids, full.attention_mask
    assert Packed.of_rows_alone(ids, mask) is None
    assert Packed.of_rows_alone(ids, mask.clone().fill_diagonal_(0)[:, 1:]) is None


def test_a_response_with_gaps_in_its_mask_is_read_where_it_must_be(monkeypatch):
    """A token that does not count is not seen by others, and yet predicts the next."""
    given = uneven()
    holes = given.response_mask.clone()
    holes[1, 4:6] = 0
    given, policy = replace(given, response_mask=holes), tiny.policy()
    found = read(policy, given)
    plainly(monkeypatch)
    expected = read(policy, given)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
    same(found.gradients, expected.gradients)


def test_models_that_let_keys_go_and_other_attention_read_the_padding():
    assert "llama" in OURS and len(OURS) < len(tiny.SHAPES)
    model = tiny.causal("llama")
    model.set_attn_implementation("sdpa")
    assert not reads_packed(model)
    copy = Policy(tiny.causal("llama"), torch.bfloat16).for_sampling().model
    assert reads_packed(copy) == (not hasattr(copy, "align_cache"))


def test_a_router_whose_loss_reads_the_mask_gets_one_of_rows():
    model = ours("mixtral", output_router_logits=True)
    assert not reads_packed(model)
    assert reads_packed(ours("mixtral"))
    assert (Policy(model, torch.float32).response_logprobs(uneven(), 1.0)[:, 0] < 0).all()


def test_one_token_behind_a_shared_prompt(monkeypatch):
    """Heads that share keys and values, for which single tokens have a way of their own."""
    given, policy = batch((60,), (1, 1, 1), (0, 0, 0)), tiny.policy()
    found = read(policy, given)
    plainly(monkeypatch)
    monkeypatch.setattr(policy_module, "shared_prompts", lambda _batch: None)
    expected = read(policy, given)
    assert (found.tokens, expected.tokens) == (59 + 3, 3 * 60)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
    same(found.gradients, expected.gradients)


@pytest.mark.parametrize("kind", sorted(attention.CHECKED))
@pytest.mark.parametrize("given", [uneven(), grouped()], ids=["alone", "grouped"])
def test_every_kind_of_model_takes_it(given, kind, monkeypatch):
    """Its code hands attention what it does not know itself; of a kind with a window, without it."""
    model = ours(kind)
    assert reads_packed(model)
    policy = Policy(model, torch.float32)
    found = read(policy, given)
    plainly(monkeypatch)
    expected = read(policy, given)
    assert found.tokens < expected.tokens
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
    same(found.gradients, expected.gradients)


def test_a_batch_of_empty_responses_is_read_as_ever():
    given = uneven()
    empty = replace(given, response_mask=torch.zeros_like(given.response_mask))
    assert Packed.of_responses(empty, None) is None
    assert tiny.policy()(empty, 1.0).logprobs.shape == given.response_ids.shape
    one = replace(given, response_mask=given.response_mask * torch.tensor([1, 0, 1, 1]).unsqueeze(1))
    assert not tiny.policy().response_logprobs(one, 1.0)[1].any()


def test_prompts_that_are_shared_stay_with_their_rows():
    given = grouped()
    packed = Packed.of_responses(given, shared_prompts(given))
    assert packed.prompts == (2, 59) and packed.rows == (5, 11)
    places = packed.places(given.response_mask)
    assert len(places) == given.response_mask.sum()
    starts = torch.cat([places.new_zeros(1), given.lengths.cumsum(0)[:-1]])
    last = given.prompt_ids[:, -1]  # predicts a row's first token
    assert torch.equal(packed.input_ids[0, places[starts]], last)
    assert torch.equal(packed.position_ids[0, places[starts]], given.prompt_mask.sum(1) - 1)
