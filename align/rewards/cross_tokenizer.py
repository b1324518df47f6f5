"""Cross-tokenizer reward models: another tokenizer or chat template than the policy's, or an encoder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.activity import Activity
from align.config import ModelConfig
from align.data.collate import collate
from align.engine.budget import FORWARD_TOKENS
from align.engine.engine import Engine
from align.engine.inputs import autocast
from align.engine.reference import ValueHead
from align.errors import InputError, RunError
from align.functional.batching import token_batches
from align.functional.credit import last_token
from align.functional.masked import masked_sum
from align.models.chat_tokenizer import ChatTokenizer
from align.models.load import has_linear_head, load_chat_tokenizer, load_sequence_classifier, load_tokenizer
from align.models.reward_folder import load_reward_model
from align.rewards.base import Source
from align.rewards.reencode import Encoded, Reader, prefix_places, spread
from align.types import RewardInput, RewardOutput


def reads_policy_tokens(folder: Path, chat: ChatTokenizer, key: str) -> bool:
    """Return whether a reward model reads the policy's own tokens: causal, with its vocabulary and chat template.

    A tokenizer without a template takes the policy's.
    """
    tokenizer = load_tokenizer(ModelConfig(path=str(folder)), key=key)
    same = tokenizer.get_vocab() == chat.tokenizer.get_vocab()
    same = same and tokenizer.chat_template in (None, chat.tokenizer.chat_template)
    return same and has_linear_head(str(folder), key)


def load_cross_tokenizer(
    folder: Path,
    key: str,
    *,
    needs: frozenset[str],
    device: torch.device,
    dtype: torch.dtype,
    engine: Engine,
    activity: Activity | None = None,
) -> Source:
    """Load the reward model in `folder` (or of that Hub id) as a source that re-encodes every response.

    Raises InputError where attention is needed of a model without causal body and linear head.
    """
    path = str(folder)
    tokenizer = load_tokenizer(ModelConfig(path=path), key=key)
    if has_linear_head(path, key):
        body, head = load_reward_model(path, dtype=torch.float32, device=device, key=key)
        if _is_causal(body):
            if tokenizer.chat_template is None:
                tokenizer = load_chat_tokenizer(ModelConfig(path=path)).tokenizer  # with the plain template
            value_head = engine.value_head(body, head, dtype).requires_grad_(False)
            return CausalReader(value_head, Reader(tokenizer, key), activity)
    model = load_sequence_classifier(path, dtype=torch.float32, device=device, key=key).requires_grad_(False)
    if "attention" in needs:
        allowed = f"one that does without attention: {type(model).__name__} is no causal model with a linear head"
        raise InputError("reward/credit", "attention", allowed)
    return WholeReader(model, Reader(tokenizer, key), dtype, activity)


@torch.no_grad()
def _is_causal(body: PreTrainedModel) -> bool:
    """Whether the last token leaves the states of those before it alone. Seen, since no configuration says it."""
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=body.device)
    states = body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :-1]
    return torch.allclose(states[0], states[1], rtol=0, atol=1e-5)


class CausalReader(Source):
    """Scorer by a causal model: one forward pass scores a response and all its prefixes, at the model's own tokens.

    A prefix of the policy's tokens has the score at the last token whose characters all lie within it. The whole
    response has the classifier's own score, read at the last token of the conversation that is not its PAD.
    """

    def __init__(self, value_head: ValueHead, reader: Reader, activity: Activity | None = None) -> None:
        self._activity = activity or Activity()
        self._head, self._reader = value_head, reader
        self._pad = value_head.body.config.get_text_config().pad_token_id
        self._limit = _context(value_head.body)

    @torch.no_grad()
    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        encoded = _encode(batch, self._reader, self._limit)
        mask, device = batch.rollout.response_mask, self._head.device
        prefix = torch.zeros(mask.shape[0], mask.shape[1] + 1, device=device)
        look = torch.zeros(mask.shape, device=device) if "attention" in needs else None
        parts = token_batches(torch.tensor([len(e.ids) for e in encoded]), FORWARD_TOKENS)
        for index in self._activity.over(parts, "responses scored", len(encoded)):
            rows = index.tolist()
            ids, real = _padded([encoded[i].ids for i in rows], 0, device)
            last = [  # where each row's score is read: transformers' own rule
                max((j for j, token in enumerate(encoded[i].ids) if token != self._pad), default=0) for i in rows
            ]
            if look is None:
                scores = self._head(ids, real)
            else:
                scores, every = self._head.with_attention(ids, real)
                for row, i in enumerate(rows):
                    n = len(encoded[i].ids)
                    offsets = _offsets(batch, i)
                    weights = spread(every[row, last[row], :n].tolist(), encoded[i].spans, offsets)
                    look[i, : len(weights)] = torch.tensor(weights, device=device)
            for row, i in enumerate(rows):
                ends = [0, *(end for _, end in _offsets(batch, i))]
                places = prefix_places(encoded[i].spans, ends)
                prefix[i, : len(ends)] = scores[row, torch.tensor(places, device=device).clamp(min=0)]
                prefix[i, len(ends) - 1] = scores[row, last[row]]
        total = masked_sum(prefix[:, 1:], last_token(mask), dim=1)
        wanted = prefix if "prefix_scores" in needs else None
        return RewardOutput(total=total, parts={"reward_model": total}, prefix_scores=wanted, attention=look)


class WholeReader(Source):
    """Scorer by any classifier's single output; every prefix is a text of its own and takes a forward pass."""

    def __init__(
        self, model: PreTrainedModel, reader: Reader, dtype: torch.dtype, activity: Activity | None = None
    ) -> None:
        self._activity = activity or Activity()
        self._model, self._reader, self._dtype = model, reader, dtype
        self._limit = _context(model)
        self._pad = model.config.get_text_config().pad_token_id or 0

    def score(self, batch: RewardInput, needs: frozenset[str] = frozenset()) -> RewardOutput:
        mask, device = batch.rollout.response_mask, self._model.device
        total = self._logits(_encode(batch, self._reader, self._limit))
        prefix = None
        if "prefix_scores" in needs:
            prefix = torch.zeros(mask.shape[0], mask.shape[1] + 1, device=device)
            rows = zip(batch.messages, batch.responses, strict=True)
            for i, (messages, text) in enumerate(rows):
                self._activity.advance("prefixes of responses scored", i, len(batch.responses))
                texts = [text[:end] for end in (0, *(end for _, end in _offsets(batch, i)))]
                distinct = {part: n for n, part in enumerate(dict.fromkeys(texts))}
                scores = self._logits([self._reader.encode(messages, part) for part in distinct])
                prefix[i, : len(texts)] = scores[torch.tensor([distinct[part] for part in texts], device=device)]
                prefix[i, len(texts) - 1] = total[i]
        return RewardOutput(total=total, parts={"reward_model": total}, prefix_scores=prefix)

    @torch.no_grad()
    def _logits(self, encoded: Sequence[Encoded]) -> Tensor:
        """Compute the scores (n,) float32."""
        out = torch.zeros(len(encoded), device=self._model.device)
        parts = token_batches(torch.tensor([len(e.ids) for e in encoded]), FORWARD_TOKENS)
        for index in self._activity.over(parts, "texts scored", len(encoded)):
            part = [encoded[i] for i in index.tolist()]
            ids, real = _padded([e.ids for e in part], self._pad, out.device)
            inputs = {"input_ids": ids, "attention_mask": real}
            if all(e.types is not None for e in part):
                inputs["token_type_ids"], _ = _padded([e.types or [] for e in part], 0, out.device)
            with autocast(self._model.device, self._dtype):
                out[index.to(out.device)] = self._model(**inputs).logits[:, 0].float()
        return out


def _padded(rows: Sequence[list[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad rows on the right: values and mask (b, S) int64."""
    batch = collate([((), row) for row in rows], fill, device)
    return batch.response_ids, batch.response_mask


def _offsets(batch: RewardInput, i: int) -> list[tuple[int, int]]:
    return [(start, end) for start, end in batch.offsets[i, : int(batch.rollout.lengths[i])].tolist()]


def _context(model: PreTrainedModel) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _encode(batch: RewardInput, reader: Reader, limit: int | None) -> list[Encoded]:
    """Encode every conversation; raise RunError for one that is longer than the model's context."""
    encoded = [reader.encode(m, text) for m, text in zip(batch.messages, batch.responses, strict=True)]
    for i, e in enumerate(encoded):
        if limit is not None and len(e.ids) > limit:
            which = f"sample {i} (prompt {int(batch.rollout.prompt_index[i])})"
            raise RunError(f"reward model: {which} has {len(e.ids)} of its tokens, its context {limit}")
    return encoded
