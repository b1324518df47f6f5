"""Rows read without their padding, and behind prompts that are read once: what each row gives by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from align.engine.engine import Engine
from align.engine.fast import cpu_attention as attention
from align.engine.fast.limits import Limits
from align.engine.fast.packed_rows import PADDED_FROM, Packed, why_not
from align.engine.fast.shared_prompts import shared_prompts
from align.types import Sequences
from tests import tiny
from tests.engine.reading import batch, kind_of_model, lora, plain, read, same

OURS = [shape for shape in sorted(tiny.SHAPES) if why_not(tiny.policy(shape).model) is None]


def uneven() -> Sequences:
    """A row for each prompt."""
    return batch((9, 2, 5, 1), (3, 11, 1, 6))


def grouped() -> Sequences:
    """Prompts of 50 and 60 tokens with three and two responses, in mixed order."""
    return batch((50, 60), (3, 11, 1, 6, 8), (0, 1, 0, 0, 1))


@pytest.mark.parametrize("given", [uneven(), grouped()], ids=["alone", "grouped"])
@pytest.mark.parametrize("make", [tiny.policy, lora])
@pytest.mark.parametrize("shape", OURS)
def test_a_policy_reads_what_counts_and_finds_the_same(shape, make, given):
    """To 2e-5 nats; of each row all but its last token, of a shared prompt all but its last once."""
    policy = make(shape)
    found, expected = read(policy, given), read(plain(policy), given)
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


def test_a_response_with_gaps_in_its_mask_is_read_where_it_must_be():
    """A token that does not count is not seen by others, and yet predicts the next."""
    given = uneven()
    holes = given.response_mask.clone()
    holes[1, 4:6] = 0
    given, policy = replace(given, response_mask=holes), tiny.policy()
    found, expected = read(policy, given), read(plain(policy), given)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=0, atol=2e-5)
    same(found.gradients, expected.gradients)


def test_models_that_let_keys_go_and_other_attention_read_the_padding():
    assert "llama" in OURS and len(OURS) < len(tiny.SHAPES)
    assert why_not(tiny.causal("llama")) is not None  # under SDPA, as it was loaded
    copy = Engine().policy(tiny.causal("llama"), torch.bfloat16).for_sampling().model
    assert (why_not(copy) is None) == (not hasattr(copy, "align_cache"))


def test_a_router_whose_loss_reads_the_mask_gets_one_of_rows():
    routed, other = (
        Engine().policy(kind_of_model("mixtral", output_router_logits=on), torch.float32) for on in (True, False)
    )
    assert why_not(routed.model) is not None and why_not(other.model) is None
    assert (routed.response_logprobs(uneven(), 1.0)[:, 0] < 0).all()


def test_one_token_behind_a_shared_prompt():
    """Heads that share keys and values, for which single tokens have a way of their own."""
    given, policy = batch((60,), (1, 1, 1), (0, 0, 0)), tiny.policy()
    found, expected = read(policy, given), read(plain(policy), given)
    assert (found.tokens, expected.tokens) == (59 + 3, 3 * 60)
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
    packed = Packed.of_responses(given, shared_prompts(given, Limits()))
    assert packed.prompts == (2, 59) and packed.rows == (5, 11)
    places = packed.places(given.response_mask)
    assert len(places) == given.response_mask.sum()
    starts = torch.cat([places.new_zeros(1), given.lengths.cumsum(0)[:-1]])
    last = given.prompt_ids[:, -1]  # predicts a row's first token
    assert torch.equal(packed.input_ids[0, places[starts]], last)
    assert torch.equal(packed.position_ids[0, places[starts]], given.prompt_mask.sum(1) - 1)
