"""Sampling responses from the policy: temperature only, keyed noise, finished rows leave the batch.

No top-k, top-p, repetition or length processors: the log-probabilities that training uses would not be those of the
distribution the tokens came from, and the k1 estimate of the KL would go negative (TRL issue 925).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.activity import Activity
from align.config import RolloutConfig
from align.engine.cache import repeat_rows
from align.engine.draws import Draws, Sampled
from align.engine.protocol import LanguageModel
from align.models.chat_tokenizer import ChatTokenizer
from align.streams import generator
from align.types import Prompt, Rollout


@dataclass(frozen=True)
class Noise:
    """Which uniforms a sampling call draws: one stream per (seed, use, round, prompt, sample)."""

    seed: int
    use: str  # "rollout", "evaluation", "reference", ...
    round: int = 0

    def uniforms(self, prompt: int, sample: int, length: int) -> Tensor:
        """(length,) float32 in [0, 1): one number per token, whatever else is in the batch."""
        return torch.rand(length, generator=generator(self.seed, self.use, self.round, prompt, sample))


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
    policy: LanguageModel,
    chat: ChatTokenizer,
    prompts: Sequence[Prompt],
    *,
    noise: Noise,
    max_new_tokens: int,
    temperature: float,
    samples_per_prompt: int = 1,
    decode_batch_size: int | None = None,
    cuda_graphs: bool = True,
    activity: Activity | None = None,
) -> Rollout:
    """Sample `samples_per_prompt` responses to each prompt; a prompt given twice gets further samples.

    Args:
        max_new_tokens: Responses without an end token are cut here (`ended` False).
        decode_batch_size: Rows decoded at once; None = all. It changes memory and speed, not the responses.
        cuda_graphs: Whether the engine may capture a step on a GPU once and replay it.
        activity: Hears how many responses have ended.

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
    sampled = Sampled(activity or Activity(), len(prompts) * samples_per_prompt, max_new_tokens)
    settings = (samples_per_prompt, noise, max_new_tokens, temperature, cuda_graphs, sampled)
    blocks = [
        _sample_block(policy, chat, prompts[i : i + per_call], first_sample[i : i + per_call], *settings)
        for i in range(0, len(prompts), per_call)
    ]
    ids, mask = left_pad([p.input_ids for p in prompts], chat.pad_id, policy.device)
    index = torch.tensor([p.id for p in prompts], device=policy.device)
    tokens = right_pad([b.tokens for b in blocks], chat.pad_id)
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


def sample_as_configured(
    settings: RolloutConfig,
    policy: LanguageModel,
    chat: ChatTokenizer,
    prompts: Sequence[Prompt],
    noise: Noise,
    samples_per_prompt: int = 1,
    *,
    activity: Activity | None = None,
) -> Rollout:
    """Sample under a run's settings of a rollout; unless they say otherwise, decode as many rows at once as it has."""
    return sample(
        policy,
        chat,
        prompts,
        noise=noise,
        max_new_tokens=settings.new_tokens,
        temperature=settings.temperature,
        samples_per_prompt=samples_per_prompt,
        decode_batch_size=settings.decode_batch_size or settings.batch_size,
        cuda_graphs=settings.cuda_graphs,
        activity=activity,
    )


@dataclass
class _Block:
    tokens: Tensor  # (b, T) padded with PAD
    logprobs: Tensor  # (b, T), 0 on padding
    lengths: Tensor  # (b,)
    ended: Tensor  # (b,) bool
    samples: Tensor  # (b,)


def _sample_block(
    policy: LanguageModel,
    chat: ChatTokenizer,
    prompts: Sequence[Prompt],
    first_sample: Sequence[int],
    group: int,
    noise: Noise,
    max_new_tokens: int,
    temperature: float,
    cuda_graphs: bool,
    sampled: Sampled,
) -> _Block:
    device = policy.device
    sampled.start(len(prompts) * group, sum(len(p.input_ids) for p in prompts))
    rows = [(p.id, first + g) for p, first in zip(prompts, first_sample, strict=True) for g in range(group)]
    uniforms = torch.stack([noise.uniforms(i, s, max_new_tokens) for i, s in rows]).to(device)
    prompt_ids, attention = left_pad([p.input_ids for p in prompts], chat.pad_id, device)
    logits, cache = policy.prefill(prompt_ids, attention)
    if group > 1:  # one prefill per prompt serves its whole group
        logits, attention = logits.repeat_interleave(group, 0), attention.repeat_interleave(group, 0)
        repeat_rows(cache, len(prompts), group)
    draws = Draws(
        uniforms,
        end_ids=torch.tensor(chat.end_ids, device=device),
        pad_id=chat.pad_id,
        temperature=temperature,
        sampled=sampled,
    )
    draws.take(logits)
    policy.draw(draws, attention, cache, max_new_tokens - 1, cuda_graphs=cuda_graphs)
    used = int(draws.lengths.max())
    samples = torch.tensor([s for _, s in rows], device=device)
    return _Block(draws.tokens[:, :used], draws.logprobs[:, :used], draws.lengths, draws.ended, samples)
