"""Character spans of tokens in a decoded text.

A fast tokenizer's offset mapping belongs to the ids that it would itself give the text; sampled ids may spell the same
text in another way, so the spans are found by decoding.
"""

from collections.abc import Callable, Sequence
from functools import cache

_BROKEN = "\ufffd"  # what an incomplete UTF-8 sequence decodes to


class TokenSpans:
    """Spans of tokens in their decoded text; caches each token's text in the middle of a text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], anchor: Sequence[int]) -> None:
        """`decode` is ids to text without special tokens of one tokenizer.

        `anchor` holds ordinary tokens to decode a token behind, so that its text is that of the middle of a text.
        """
        self._decode, self._anchor = decode, list(anchor)
        self._skip = len(decode(anchor))
        self._piece = cache(lambda token: self._inside([token]))

    def __call__(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return [start, end) per token, in order, covering `decode(ids)` without gap or overlap."""
        text = self._decode(ids)
        pieces = self._split(ids)
        joined = "".join(pieces)
        if joined.endswith(text):  # some decoders drop a blank at the start of a text
            end, ends = len(text) - len(joined), []
            for piece in pieces:
                end += len(piece)
                ends.append(max(0, end))
        else:
            ends = self._by_prefixes(ids, text)
        return list(zip([0, *ends][: len(ends)], ends, strict=True))

    def _split(self, ids: Sequence[int]) -> list[str]:
        """Return the text that each token adds; tokens are decoded together only where they share a character."""
        out = [""] * len(ids)
        run: list[int] = []  # positions of the tokens since the last whole character
        shown = 0  # characters of the run's text that are given out already
        for i, token in enumerate(ids):
            piece = self._piece(token)
            if piece and _BROKEN not in piece:
                if run:  # never completed: its replacement characters are final
                    out[run[-1]] += self._inside([ids[j] for j in run])[shown:]
                    run, shown = [], 0
                out[i] = piece
            elif piece:
                run.append(i)
                text = self._inside([ids[j] for j in run])
                whole = len(text.rstrip(_BROKEN))
                out[i], shown = text[shown:whole], max(shown, whole)
                if whole == len(text):
                    run, shown = [], 0
        if run:
            out[run[-1]] += self._inside([ids[j] for j in run])[shown:]
        return out

    def _inside(self, ids: Sequence[int]) -> str:
        return self._decode([*self._anchor, *ids])[self._skip :]

    def _by_prefixes(self, ids: Sequence[int], text: str) -> list[int]:
        """Return how much of the text each prefix settles, for decoders that look further than one token. Quadratic."""
        ends: list[int] = []
        for n in range(1, len(ids) + 1):
            prefix = self._decode(ids[:n])
            settled = next((i for i, (a, b) in enumerate(zip(prefix, text, strict=False)) if a != b), len(prefix))
            ends.append(min(len(text), max(settled, ends[-1] if ends else 0)))
        if ends:
            ends[-1] = len(text)
        return ends
