"""Sampling: the right distribution, noise that belongs to a row, ends and limits, and log-probabilities that agree."""

from __future__ import annotations

import pytest
import torch

from align.engine.draws import inverse_cdf
from align.engine.reference import SHRINK_AT, Policy
from align.engine.sampling import Noise, sample
from align.types import Rollout
from tests import tiny

NOISE = Noise(3, "rollout", 1)
MAX = 10  # new tokens
BELOW_1 = 1 - 2**-24  # the largest uniform that float32 can hold


def rows(rollout: Rollout) -> dict[tuple[int, int], list[int]]:
    """{(prompt, sample): response tokens}."""
    return {
        (int(p), int(s)): ids[:n]
        for p, s, ids, n in zip(
            rollout.prompt_index,
            rollout.sample_index,
            rollout.response_ids.tolist(),
            rollout.lengths.tolist(),
            strict=True,
        )
    }


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny.policy()


def draw(policy: Policy, prompts=None, **settings) -> Rollout:
    return sample(
        policy,
        tiny.chat(),
        tiny.prompts(12) if prompts is None else prompts,
        **({"noise": NOISE, "max_new_tokens": MAX, "temperature": 1.0} | settings),
    )


@pytest.fixture(scope="module")
def rollout(policy) -> Rollout:
    return draw(policy)


# --- the distribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_evenly_spread_uniforms_give_every_token_its_share(temperature):
    """Exact frequencies against softmax(logits / T), to less than one draw in 4,000."""
    logits = torch.tensor([2.0, -1.0, 0.5, -30.0, 1.0])
    n = 4000
    tokens, logp = inverse_cdf(logits.expand(n, 5), (torch.arange(n) + 0.5) / n, temperature)
    shares = torch.softmax(logits / temperature, 0)
    counts = torch.bincount(tokens, minlength=5)
    assert (counts - n * shares).abs().max() <= 1.01
    torch.testing.assert_close(logp, shares.log()[tokens])


def test_first_tokens_of_many_samples_follow_the_model(policy):
    """Chi-square of 4,000 keyed samples against the model's own softmax(logits / T); 33 tokens, p = .001."""
    prompt = tiny.prompts(1)
    n, temperature = 4000, 0.7
    first = draw(policy, prompt, samples_per_prompt=n, max_new_tokens=1, temperature=temperature).response_ids[:, 0]
    with torch.no_grad():
        logits = policy.model(torch.tensor([prompt[0].input_ids])).logits[0, -1]
    expected = n * torch.softmax(logits / temperature, 0)
    common = expected >= 5
    observed = torch.bincount(first, minlength=len(logits)).float()
    chi2 = float(((observed - expected) ** 2 / expected)[common].sum())
    rare, n_rare = float(observed[~common].sum()), float(expected[~common].sum())
    chi2 += (rare - n_rare) ** 2 / n_rare
    freedom = int(common.sum())  # the common ones and the rest, less one
    assert freedom > 8
    spread = 2 / (9 * freedom)  # Wilson and Hilferty's approximation of the 99.9% point
    assert chi2 < freedom * (1 - spread + 3.09 * spread**0.5) ** 3


def test_each_token_is_the_inverse_cdf_at_its_own_uniform(policy):
    """Token t of a response comes from the model's distribution after t tokens and from the row's uniform t."""
    rollout = draw(policy, samples_per_prompt=4)
    places = set()
    for i, n in enumerate(rollout.lengths.tolist()):
        uniforms = NOISE.uniforms(int(rollout.prompt_index[i]), int(rollout.sample_index[i]), MAX)
        prompt = rollout.prompt_ids[i, rollout.prompt_mask[i] == 1]
        response = rollout.response_ids[i, :n]
        with torch.no_grad():
            logits = policy.model(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        cdf = torch.nn.functional.pad(torch.softmax(logits, -1).cumsum(-1), (1, 0))
        low, high = (cdf.gather(1, response[:, None] + k).squeeze(1) for k in (0, 1))
        assert ((low - 1e-5 <= uniforms[:n]) & (uniforms[:n] <= high + 1e-5)).all()
        places |= set(range(n))
    assert places == set(range(MAX))


def test_tokens_of_a_row_are_independent_of_each_other():
    """One uniform per token: neighbours in a stream are uncorrelated, and streams differ."""
    u = torch.stack([NOISE.uniforms(p, s, 8) for p in range(40) for s in range(25)])
    assert torch.corrcoef(u.T).fill_diagonal_(0).abs().max() < 0.12
    assert abs(float(u.mean()) - 0.5) < 0.015
    assert len({tuple(row) for row in u.tolist()}) == 1000
    others = [Noise(4, "rollout", 1), Noise(3, "evaluation", 1), Noise(3, "rollout", 2)]
    assert len({tuple(n.uniforms(0, 0, 4).tolist()) for n in [NOISE, *others]}) == 4


@pytest.mark.parametrize("uniform", [0.0, 1e-30, 0.25, 0.5, BELOW_1])
def test_a_token_of_probability_0_is_never_drawn(uniform):
    never = -float("inf")
    logits = torch.tensor([never, never, 0.0, never, 0.0, 0.0, 0.0, never, never])
    possible = logits.isfinite()
    for shift in range(9):
        token, logp = inverse_cdf(logits.roll(shift).unsqueeze(0), torch.tensor([uniform]), 1.0)
        assert possible.roll(shift)[token.item()]
        torch.testing.assert_close(logp.item(), torch.tensor(0.25).log().item())


@pytest.mark.parametrize("uniform", [0.0, BELOW_1])
def test_extreme_uniforms_on_a_wide_vocabulary(uniform):
    """The sum of 50,000 rounded probabilities is not 1: the draw stays inside, among tokens that are possible."""
    logits = torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, -7:] = logits[:, :7] = -float("inf")
    tokens, logp = inverse_cdf(logits, torch.full((4,), uniform), 1.0)
    assert torch.isfinite(logp).all()
    assert ((tokens >= 7) & (tokens < 49_993)).all()


def test_temperature_only(policy):
    """'Sample for training with temperature only (no top-k, top-p, repetition or min-length processors)'."""
    own = policy.model.generation_config
    before = draw(policy)
    policy.model.generation_config = with_settings(own, top_k=1, top_p=0.1, repetition_penalty=9.0, min_length=9)
    try:
        assert rows(draw(policy)) == rows(before)
    finally:
        policy.model.generation_config = own


def with_settings(config, **settings):
    return type(config)(**(config.to_dict() | settings))


# --- a row's noise is its own -----------------------------------------------------------------------------------------


def test_a_response_depends_neither_on_other_rows_nor_on_their_order(policy, rollout):
    together = rows(rollout)
    prompts = tiny.prompts(12)
    assert {k: v for p in prompts for k, v in rows(draw(policy, [p])).items()} == together
    assert rows(draw(policy, prompts[::-1])) == together
    some = {p.id for p in prompts[3:8]}
    assert rows(draw(policy, prompts[3:8])) == {k: v for k, v in together.items() if k[0] in some}


@pytest.mark.parametrize("size", [1, 5, 7])
def test_a_response_does_not_depend_on_the_decode_batch(policy, rollout, size):
    split = draw(policy, decode_batch_size=size)
    for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "ended", "sample_index"):
        assert torch.equal(getattr(split, name), getattr(rollout, name)), name
    torch.testing.assert_close(split.sampling_logprobs, rollout.sampling_logprobs, rtol=0, atol=1e-5)


def test_groups_are_further_samples_and_the_first_is_the_single_one(policy, rollout):
    prompts = tiny.prompts(12)
    grouped = draw(policy, samples_per_prompt=3)
    assert grouped.prompt_index.tolist() == [p.id for p in prompts for _ in range(3)]
    assert grouped.sample_index.tolist() == [0, 1, 2] * 12
    found = rows(grouped)
    assert {k: v for k, v in found.items() if k[1] == 0} == rows(rollout)
    assert rows(draw(policy, samples_per_prompt=3, decode_batch_size=7)) == found
    assert rows(draw(policy, [*prompts, *prompts[::-1], *prompts])) == found  # given thrice
    assert len({tuple(found[p.id, s]) for p in prompts for s in range(3)}) > 30


def test_rounds_uses_and_seeds_draw_differently(policy, rollout):
    for noise in (Noise(3, "rollout", 2), Noise(3, "evaluation", 1), Noise(4, "rollout", 1)):
        assert rows(draw(policy, noise=noise)) != rows(rollout)
    assert rows(draw(policy)) == rows(rollout)


# --- ends, limits, padding --------------------------------------------------------------------------------------------


def test_first_end_token_is_kept_and_cuts(policy):
    """'Cut after the first EOS and keep it in the mask'; 'stop on every id': EOS and the turn's end both do."""
    chat = tiny.chat()
    rollout = draw(policy, samples_per_prompt=8)
    assert chat.end_ids == (0, 2)
    stopped_by = set()
    for ids, mask, ended in zip(
        rollout.response_ids.tolist(), rollout.response_mask.tolist(), rollout.ended.tolist(), strict=True
    ):
        n = sum(mask)
        assert mask == [1] * n + [0] * (len(mask) - n)
        assert ended == (ids[n - 1] in chat.end_ids)
        assert not set(ids[: n - 1]) & set(chat.end_ids)
        assert set(ids[n:]) <= {chat.pad_id}
        assert ended or n == MAX
        stopped_by |= {ids[n - 1]} if ended else {None}
    assert stopped_by == {0, 2, None}


def test_the_limit_cuts_and_an_end_token_at_the_limit_still_ends(policy):
    long = draw(policy, samples_per_prompt=8)
    short = draw(policy, samples_per_prompt=8, max_new_tokens=3)
    assert not rows(short).items() <= rows(long).items()
    at_limit = {"ended": 0, "cut": 0}
    for key, ids in rows(short).items():
        assert ids == rows(long)[key][:3]  # a row's first uniforms do not depend on the limit
    for n, last, ended in zip(short.lengths, short.response_ids[:, -1], short.ended, strict=True):
        if n == 3:
            assert bool(ended) == (int(last) in tiny.chat().end_ids)
            at_limit["ended" if ended else "cut"] += 1
    assert min(at_limit.values()) > 0


def test_pad_is_no_end_and_stands_only_where_masks_are_0(rollout):
    """'PAD is not EOS'."""
    chat = tiny.chat()
    assert chat.pad_id not in chat.end_ids
    assert (rollout.prompt_ids[rollout.prompt_mask == 0] == chat.pad_id).all()
    assert (rollout.response_ids[rollout.response_mask == 0] == chat.pad_id).all()
    assert (rollout.prompt_mask == 0).any() and (rollout.response_mask == 0).any()
    for i, prompt in enumerate(tiny.prompts(12)):
        assert tuple(rollout.prompt_ids[i, rollout.prompt_mask[i] == 1].tolist()) == prompt.input_ids


# --- log-probabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("temperature", [1.0, 1.6])
def test_sampling_logprobs_are_those_of_a_plain_forward_of_each_row(shape, temperature):
    """Through left padding, cached decoding and rows that leave the batch early."""
    policy = tiny.policy(shape)
    rollout = draw(policy, samples_per_prompt=2, temperature=temperature)
    lengths = rollout.lengths
    alive = [(lengths > t).float().mean().item() for t in range(MAX)]
    assert any(0 < share <= SHRINK_AT for share in alive)  # the cache was cut down on the way
    assert torch.equal(rollout.sampling_logprobs == 0, rollout.response_mask == 0)
    for i, n in enumerate(lengths.tolist()):
        prompt = rollout.prompt_ids[i, rollout.prompt_mask[i] == 1]
        ids = torch.cat([prompt, rollout.response_ids[i, :n]])
        with torch.no_grad():
            logp = torch.log_softmax(policy.model(ids[None]).logits[0, len(prompt) - 1 : -1] / temperature, -1)
        expected = logp.gather(1, rollout.response_ids[i, :n, None]).squeeze(1)
        torch.testing.assert_close(rollout.sampling_logprobs[i, :n], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_recomputed_logprobs_agree(policy, temperature):
    """'Policy, old and reference logits are all divided by the sampling temperature.'"""
    rollout = draw(policy, temperature=temperature)
    with torch.no_grad():
        again = policy(rollout, temperature).logprobs
    again = again.masked_fill(rollout.response_mask == 0, 0)
    torch.testing.assert_close(again, rollout.sampling_logprobs, rtol=0, atol=1e-4)
