"""Sampling responses from the policy: temperature only, keyed noise, finished rows leave the batch.

No top-k, top-p, repetition or length processors: the log-probabilities that training uses would not be those of the
distribution the tokens came from, and the k1 estimate of the KL would go negative (TRL issue 925).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from align.models.codec import ChatCodec
from align.models.policy import Policy
from align.streams import generator
from align.types import Prompt, Rollout

SHRINK_AT = 0.75  # share of live rows below which finished ones are cut out of the cache; copying it is not free


@dataclass(frozen=True)
class Noise:
    """Which uniforms a sampling call draws: one stream per (seed, use, round, prompt, sample)."""

    seed: int
    use: str  # "rollout", "evaluation", "reference", ...
    round: int = 0

    def uniforms(self, prompt: int, sample: int, length: int) -> Tensor:
        """(length,) float32 in [0, 1): one number per token, whatever else is in the batch."""
        return torch.rand(length, generator=generator(self.seed, self.use, self.round, prompt, sample))


def inverse_cdf(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Tokens drawn from softmax(logits / temperature) by inverse CDF.

    Args:
        logits: (B, V).
        uniforms: (B,) in [0, 1).

    Returns:
        tokens (B,) int64 and their log-probabilities (B,) float32, nats.
    """
    scaled = logits.to(torch.float32, copy=True)  # worked on in place: on a CPU fresh pages cost more than the sums
    if temperature != 1:
        scaled.div_(temperature)
    top = scaled.amax(-1, keepdim=True)
    cdf = scaled.sub_(top).exp_().cumsum_(-1)  # times `total`: it is not worth dividing by
    total = cdf[:, -1:].clone()
    # The threshold is kept below the last sum. With right=True a token of probability 0 is never drawn, not even for a
    # uniform of exactly 0.
    threshold = torch.minimum(uniforms.to(cdf).unsqueeze(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cdf, threshold, right=True)
    logp = logits.gather(1, tokens).float() / temperature - top - total.log()
    return tokens.squeeze(1), logp.squeeze(1)


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token lists -> ids and mask, both (B, longest) int64."""
    width = max(len(row) for row in rows)
    ids = [[pad_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def right_pad(tensors: Sequence[Tensor], value: float = 0) -> Tensor:
    """Blocks of rows (b_i, T_i) -> one (sum b_i, max T_i), filled up with `value`."""
    width = max(t.shape[1] for t in tensors)
    return torch.cat([torch.nn.functional.pad(t, (0, width - t.shape[1]), value=value) for t in tensors])


@torch.no_grad()
def sample(
    policy: Policy,
    codec: ChatCodec,
    prompts: Sequence[Prompt],
    *,
    noise: Noise,
    max_new_tokens: int,
    temperature: float,
    samples_per_prompt: int = 1,
    decode_batch_size: int | None = None,
) -> Rollout:
    """Sample `samples_per_prompt` responses to each prompt; a prompt given twice gets further samples.

    Args:
        max_new_tokens: Responses without an end token are cut here (`ended` False).
        decode_batch_size: Rows decoded at once; None = all. It changes memory and speed, not the responses.

    Returns:
        A Rollout of len(prompts) * samples_per_prompt rows, the samples of a prompt next to each other, on the
        policy's device.
    """
    policy = policy.for_sampling()
    seen: dict[int, int] = {}
    first_sample = []
    for prompt in prompts:
        first_sample.append(seen.get(prompt.id, 0))
        seen[prompt.id] = first_sample[-1] + samples_per_prompt
    per_call = max(1, (decode_batch_size or len(prompts) * samples_per_prompt) // samples_per_prompt)
    blocks = [
        _sample_block(
            policy,
            codec,
            prompts[i : i + per_call],
            first_sample[i : i + per_call],
            samples_per_prompt,
            noise,
            max_new_tokens,
            temperature,
        )
        for i in range(0, len(prompts), per_call)
    ]
    ids, mask = left_pad([p.input_ids for p in prompts], codec.pad_id, policy.device)
    index = torch.tensor([p.id for p in prompts], device=policy.device)
    tokens = right_pad([b.tokens for b in blocks], codec.pad_id)
    lengths = torch.cat([b.lengths for b in blocks])
    response_mask = (torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)).long()
    return Rollout(
        prompt_ids=ids.repeat_interleave(samples_per_prompt, 0),
        prompt_mask=mask.repeat_interleave(samples_per_prompt, 0),
        response_ids=tokens,
        response_mask=response_mask,
        ended=torch.cat([b.ended for b in blocks]),
        prompt_index=index.repeat_interleave(samples_per_prompt),
        sample_index=torch.cat([b.samples for b in blocks]),
        sampling_logprobs=right_pad([b.logprobs for b in blocks]),
    )


@dataclass
class _Block:
    tokens: Tensor  # (b, T) padded with PAD
    logprobs: Tensor  # (b, T), 0 on padding
    lengths: Tensor  # (b,)
    ended: Tensor  # (b,) bool
    samples: Tensor  # (b,)


def _sample_block(
    policy: Policy,
    codec: ChatCodec,
    prompts: Sequence[Prompt],
    first_sample: Sequence[int],
    group: int,
    noise: Noise,
    max_new_tokens: int,
    temperature: float,
) -> _Block:
    device = policy.device
    rows = [(p.id, first + g) for p, first in zip(prompts, first_sample, strict=True) for g in range(group)]
    uniforms = torch.stack([noise.uniforms(i, s, max_new_tokens) for i, s in rows]).to(device)
    prompt_ids, attention = left_pad([p.input_ids for p in prompts], codec.pad_id, device)
    logits, cache = policy.prefill(prompt_ids, attention)
    if group > 1:  # one prefill per prompt serves its whole group
        logits, attention = logits.repeat_interleave(group, 0), attention.repeat_interleave(group, 0)
        cache.batch_repeat_interleave(group)
    ends = torch.tensor(codec.end_ids, device=device)
    n = len(rows)
    tokens = torch.full((n, max_new_tokens), codec.pad_id, device=device)
    logprobs = torch.zeros(n, max_new_tokens, device=device)
    lengths = torch.zeros(n, dtype=torch.long, device=device)
    ended = torch.zeros(n, dtype=torch.bool, device=device)
    live = torch.arange(n, device=device)  # which row each line of the decode batch is
    for t in range(max_new_tokens):
        drawn, logp = inverse_cdf(logits, uniforms[live, t], temperature)
        going = ~ended[live]
        at = live[going]
        tokens[at, t], logprobs[at, t] = drawn[going], logp[going]
        lengths[at] += 1
        ended[at] = torch.isin(drawn[going], ends)
        going = ~ended[live]
        if t + 1 == max_new_tokens or not bool(going.any()):
            break
        if int(going.sum()) <= SHRINK_AT * len(live):
            live, drawn, attention = _keep(going, cache, live, drawn, attention)
        attention = torch.cat([attention, attention.new_ones(len(live), 1)], dim=1)
        logits = policy.decode(drawn, attention, cache)
    used = int(lengths.max())
    samples = torch.tensor([s for _, s in rows], device=device)
    return _Block(tokens[:, :used], logprobs[:, :used], lengths, ended, samples)


def _keep(going: Tensor, cache: Cache, live: Tensor, drawn: Tensor, attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    index = going.nonzero().squeeze(1)
    cache.batch_select_indices(index)
    return live[index], drawn[index], attention[index]
