"""Prompts, and the responses to them, as one row of tokens without padding: a prompt is read once for its responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from transformers import PreTrainedModel

from align.engine.compat import attention_of
from align.engine.fast.grouped_attention import SharedPrefix
from align.engine.fast.roomy_cache import sees_all
from align.engine.inputs import position_ids
from align.types import Sequences

ATTENTION = "align_cpu"  # the attention that takes packed rows (cpu_attention.py)
PADDED_FROM = 0.1  # of the tokens; splitting the row for attention costs more than reading less padding saves


def why_not(model: PreTrainedModel) -> str | None:
    """Why this model reads padding in training; None where a forward pass of it may be given a `Packed`."""
    if attention_of(model) != ATTENTION:
        return "it takes the CPU attention, which is off"
    if hasattr(model, "align_cache"):
        return "layers that only decode"
    if getattr(model.config, "output_router_logits", False):
        return "the router's loss reads a mask of rows"
    return None if sees_all(model) else "a sliding window lets keys go"


@dataclass(frozen=True)
class Packed:
    """What a transformer reads of U prompts of up to P tokens and B rows of up to T, N tokens in one row.

    All but attention takes a token by itself, and finds more of them in one row than in two passes; attention gets the
    prompts and the rows behind them side by side again, padded (`attend`). U is 0 where rows share no prompts.
    """

    input_ids: Tensor  # (1, N) int64
    position_ids: Tensor  # (1, N) int64, each token's in its own sequence
    prompts: tuple[int, int]  # U, P
    rows: tuple[int, int]  # B, T
    which: Tensor | None  # (B,) int64, the prompt of each row
    of_prompts: Tensor | None  # (U, 1, P, P) bool, what each token sees; None = all before it, and itself
    of_rows: Tensor  # (B or 1, 1, T, P + T) bool
    real: Tensor | None  # (N,) int64, rising: the tokens' places among U P + B T; None = all are read

    @classmethod
    def of_responses(cls, batch: Sequences, shared: tuple[Tensor, Tensor, Tensor] | None) -> Packed | None:
        """What it takes to predict a batch's responses, whose prompts are shared as `shared_prompts` says.

        That is all but the last token of each row. A shared prompt's last token is read with its rows, whose first ones
        it predicts. None where nothing is shared and little is padding, or where there is nothing to predict.
        """
        start = 0 if shared is None else shared[0].shape[1] - 1
        ids, mask = batch.input_ids[:, start:-1], batch.attention_mask[:, :-1]
        predicting = pad(batch.response_mask.bool(), (ids.shape[1] - batch.response_mask.shape[1], 0))
        before_one = predicting.flip(1).cumsum(1).flip(1) > 0  # or at one: what comes after the last is of no use
        read = (mask[:, start:].bool() | predicting) & before_one
        if not bool(predicting.any()):
            return None
        if shared is None:
            return None if _little(~read) else cls._of(ids, mask, read, None)
        prompts, of_prompts, which = shared
        return cls._of(ids, mask, read, (prompts[:, :start], of_prompts[:, :start], which))

    @classmethod
    def of_rows_alone(cls, ids: Tensor, mask: Tensor) -> Packed | None:
        """Rows (B, T) by themselves, without what the mask leaves out; None where that is little."""
        return None if _little(mask == 0) else cls._of(ids, mask, mask.bool(), None)

    @classmethod
    def _of(cls, ids: Tensor, mask: Tensor, read: Tensor, shared: tuple[Tensor, Tensor, Tensor] | None) -> Packed:
        """Of rows' own tokens (B, T), of which `read` are; `mask` (B, P + T) is of what they see."""
        prompts, of_prompts, which = (ids[:0, :0], mask[:0, :0], None) if shared is None else shared
        start, width = prompts.shape[1], mask.shape[1]
        picked = torch.cat([of_prompts.bool().flatten(), read.flatten()])
        real = None if bool(picked.all()) else picked.nonzero().squeeze(1)
        tokens = torch.cat([prompts.flatten(), ids.flatten()])
        positions = torch.cat([position_ids(of_prompts).flatten(), position_ids(mask)[:, start:].flatten()])
        return cls(
            input_ids=(tokens if real is None else tokens[real]).unsqueeze(0),
            position_ids=(positions if real is None else positions[real]).unsqueeze(0),
            prompts=(prompts.shape[0], start),
            rows=(ids.shape[0], ids.shape[1]),
            which=which,
            of_prompts=None if bool(of_prompts.all()) else _seen(of_prompts, start),
            of_rows=_seen(mask[:1] if bool(mask.all()) else mask, width - start),
            real=real,
        )

    def arguments(self) -> dict[str, Any]:
        """What a forward pass is given.

        Attention reads the masks in `packed`. The one beside it only keeps transformers from making another: of four
        dimensions, it is taken for a finished one.
        """
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.of_rows,
            "packed": self,
        }

    def places(self, tokens: Tensor) -> Tensor:
        """(M,) int64, the places of those of the rows' last tokens (B, S) that a mask picks; all must be read."""
        picked = pad(tokens.bool(), (self.rows[1] - tokens.shape[1], 0))
        among = picked.flatten().nonzero().squeeze(1) + self.prompts[0] * self.prompts[1]
        return among if self.real is None else torch.searchsorted(self.real, among)

    def attend(
        self,
        attention: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Every prompt on itself, every row on its prompt and itself.

        Args:
            attention: From query (b, H, t, d), key and value (b, G, s, d), a mask (b or 1, 1, t, S) and the prefix
                before the keys to (b, t, H, d).
            query: (1, H, N, d); key and value are (1, G, N, d).

        Returns:
            (1, N, H, d)
        """
        (q, own_q), (k, own_k), (v, own_v) = (self._split(states) for states in (query, key, value))
        if self.which is None:
            together = attention(own_q, own_k, own_v, self.of_rows).flatten(0, 1)
        else:
            prefix = SharedPrefix(k, v, self.which)
            out = attention(q, k, v, self.of_prompts), attention(own_q, own_k, own_v, self.of_rows, prefix)
            together = torch.cat([part.flatten(0, 1) for part in out])
        return (together if self.real is None else _Picked.apply(together, self.real)).unsqueeze(0)

    def _split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(1, h, N, d) -> (U, h, P, d) and (B, h, T, d), 0 where there is padding."""
        tokens = states.squeeze(0).transpose(0, 1)
        count = self.prompts[0] * self.prompts[1]
        if self.real is not None:
            padded = tokens.new_zeros(count + self.rows[0] * self.rows[1], *tokens.shape[1:])
            tokens = padded.index_copy_(0, self.real, tokens)
        prompts, rows = tokens[:count], tokens[count:]
        prompts = prompts.reshape(*self.prompts, *tokens.shape[1:])
        return prompts.transpose(1, 2), rows.reshape(*self.rows, *tokens.shape[1:]).transpose(1, 2)


class _Picked(torch.autograd.Function):
    """Different rows of a tensor; torch's own gradient adds row by row, as if some were the same."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = states.shape
        return states.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradients[0].new_zeros(ctx.shape).index_copy_(0, rows, gradients[0]), None


def _little(unread: Tensor) -> bool:
    return float(unread.float().mean()) < PADDED_FROM


def _seen(mask: Tensor, last: int) -> Tensor:
    """(B, 1, last, S) bool: what the last tokens of rows (B, S) see.

    What would see nothing, as left padding, sees itself: softmax over nothing is not a number in some kernels.
    """
    width = mask.shape[1]
    before = torch.ones(last, width, dtype=torch.bool, device=mask.device).tril(width - last)
    seen = before & mask[:, None, None].bool()
    itself = before & ~before.tril(width - last - 1)
    return seen | (itself & ~seen.any(-1, keepdim=True))
