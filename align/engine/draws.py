"""Draws of tokens for the rows of a decode batch, written in place so that a captured step can go on with them."""

import time

import torch
from torch import Tensor

from align.activity import SAMPLING, Activity

READ_MEANWHILE = 4  # tokens that are read in the time in which one is sampled, about: rows decode together


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


class Sampled:
    """Count of the responses of one sampling call that have ended, over the blocks that are decoded in turn."""

    def __init__(self, activity: Activity, rows: int, longest: int) -> None:
        self._activity, self._rows, self._longest = activity, rows, longest
        self._before = self._block = 0  # rows of the blocks that are done, and of this one
        self._reading = 0.0  # share of the block's work that its prompts are
        self._drawn, self._started = 0, time.perf_counter()  # tokens

    def start(self, rows: int, prompt_tokens: int) -> None:
        """Begin a block of `rows`, whose prompts are read first."""
        self._before, self._block = self._before + self._block, rows
        self._reading = prompt_tokens / (prompt_tokens + READ_MEANWHILE * rows * self._longest)
        end = (self._before + rows * self._reading) / self._rows  # share of the call when the prompts are read
        self._report(0, "reading prompts", 0.0, tokens=0 if self._before else round(prompt_tokens / end))
        self._activity.expect(end, passes=1)
        self._activity.begin()

    def look(self, tokens: int, going: int) -> None:
        """Report that `tokens` were drawn of each row of the block, and that `going` of them have not ended."""
        self._drawn += going
        ended, place = self._block - going, tokens / self._longest
        of_block = self._reading + (1 - self._reading) * max(place, ended / self._block)
        self._report(ended, f"token {tokens} of at most {self._longest}", of_block)

    def _report(self, ended: int, detail: str, of_block: float, tokens: int = 0) -> None:
        share = (self._before + self._block * of_block) / self._rows
        speed = self._drawn / max(time.perf_counter() - self._started, 1e-9)
        figures = {"throughput/sampled_tokens_per_second": speed} if self._drawn else {}
        done = self._before + ended
        self._activity.advance(SAMPLING, done, self._rows, detail=detail, share=share, figures=figures, tokens=tokens)


class Draws:
    """Responses of n rows of up to T tokens. `live` are the rows still decoded; some may have ended."""

    def __init__(
        self, uniforms: Tensor, *, end_ids: Tensor, pad_id: int, temperature: float, sampled: Sampled | None = None
    ) -> None:
        """uniforms (n, T) in [0, 1), one for each token; end_ids (E,)."""
        self._sampled = sampled
        n, device = len(uniforms), uniforms.device
        self._uniforms, self._end_ids, self._pad_id, self._temperature = uniforms, end_ids, pad_id, temperature
        self._at = torch.zeros(1, dtype=torch.long, device=device)  # which token is drawn next
        self.tokens = torch.full(uniforms.shape, pad_id, device=device)  # (n, T)
        self.logprobs = torch.zeros_like(uniforms)  # (n, T) nats, 0 behind a response
        self.lengths = torch.zeros(n, dtype=torch.long, device=device)
        self.ended = torch.zeros(n, dtype=torch.bool, device=device)
        self.live = torch.arange(n, device=device)
        self.last = torch.full((n,), pad_id, device=device)  # what was drawn last for each live row

    def take(self, logits: Tensor) -> None:
        """Draw a token for each live row from its logits (len(live), V)."""
        rows, at = self.live, self._at
        drawn, logp = inverse_cdf(logits, self._uniforms[rows, at], self._temperature)
        going = self.going
        self.tokens[rows, at] = torch.where(going, drawn, self._pad_id)
        self.logprobs[rows, at] = torch.where(going, logp, 0.0)
        self.lengths[rows] += going
        self.ended[rows] |= (drawn.unsqueeze(1) == self._end_ids).any(1)
        self.last.copy_(drawn)
        self._at += 1

    @property
    def going(self) -> Tensor:
        """(len(live),) bool: which live rows have not ended."""
        return ~self.ended[self.live]

    def look(self, tokens: int, going: int) -> None:
        """Report how far the rows are, from numbers that a decoding loop has read back for itself."""
        if self._sampled is not None:
            self._sampled.look(tokens, going)

    def keep(self, index: Tensor) -> None:
        """Go on with these of the live rows alone."""
        self.live, self.last = self.live[index], self.last[index]
