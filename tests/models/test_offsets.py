"""Spans where decoding is not simply the joining of pieces."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import decoders

from align.models.offsets import TokenSpans

WORDS = ["<pad>", "a", "b", "c", "|"]


def test_decoders_that_merge_neighbours():
    """CTC drops repeated tokens, so a token's text depends on the one before it."""
    ctc = decoders.CTC(pad_token="<pad>", word_delimiter_token="|", cleanup=False)

    def decode(ids: Sequence[int]) -> str:
        return ctc.decode([WORDS[i] for i in ids])

    assert decode([1, 2, 2, 3]) == "abc"
    assert TokenSpans(decode, [1])([1, 2, 2, 3]) == [(0, 1), (1, 2), (2, 2), (2, 3)]


def test_a_blank_that_the_decoder_drops_belongs_to_no_token():
    metaspace = decoders.Metaspace()

    def decode(ids: Sequence[int]) -> str:
        return metaspace.decode([["▁x", "▁yz", "w"][i] for i in ids])

    assert decode([0, 1, 2]) == "x yzw"
    assert TokenSpans(decode, [2])([0, 1, 2]) == [(0, 1), (1, 4), (4, 5)]


def test_replacement_characters_of_cut_bytes_are_covered():
    bytes_of = [b"a", b"\xe6", b"\x97", b"\xa5", b"z"]

    def decode(ids: Sequence[int]) -> str:
        return b"".join(bytes_of[i] for i in ids).decode("utf-8", errors="replace")

    spans = TokenSpans(decode, [0])
    assert spans([0, 1, 2, 3, 4]) == [(0, 1), (1, 1), (1, 1), (1, 2), (2, 3)]  # the character is whole
    assert spans([0, 1, 2, 4]) == [(0, 1), (1, 1), (1, 2), (2, 3)]  # broken off: its last token has the replacement
    assert spans([0, 1]) == [(0, 1), (1, 2)]
    assert spans([]) == []
