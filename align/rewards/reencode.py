"""Conversations as another model's tokens, each with its characters of the response.

The text is that model's own chat template over the whole conversation, tokenized as a whole. Encoders without a
template get prompt and response as a pair of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from align.errors import InputError
from align.models.control_tokens import ControlTokens, shown
from align.models.templates import PROBE, Messages, Template


@dataclass(frozen=True)
class Encoded:
    """One conversation. Spans count from the response's first character: before it they end at 0 or below."""

    ids: list[int]
    spans: list[tuple[int, int]]  # [start, end) of each token
    types: list[int] | None = None  # token types, where the model has them


class Reader:
    """Encoder of conversations for one reward model; InputError for a slow tokenizer, without character offsets."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, key: str) -> None:
        if not tokenizer.is_fast:
            allowed = "a reward model with a fast tokenizer (tokenizer.json), or with the policy's own"
            raise InputError(key, type(tokenizer).__name__, allowed)
        self._tokenizer, self._key = tokenizer, key
        self._template, self._control = None, ControlTokens(tokenizer)
        if tokenizer.chat_template is not None:
            try:
                self._template = Template(tokenizer)
            except InputError as error:
                raise self._refused(error) from error

    def encode(self, messages: Messages, response: str) -> Encoded:
        """Encode a conversation with its response; InputError where the template does not write it as it is."""
        if self._template is None:
            return self._pair("\n".join(m["content"] for m in messages), response)
        turns, marks = self._control.hide([*messages, {"role": "assistant", "content": response}])
        whole, start = self._rendered(self._template, turns)
        if marks:
            start = len(shown(whole[:start], marks))
            ids, places = self._control.sections(whole, marks, start=True)
        else:
            tokens = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
            ids, places = tokens["input_ids"], tokens["offset_mapping"]
        return Encoded(ids, [(a - start, b - start) for a, b in places])

    def _rendered(self, template: Template, turns: Messages) -> tuple[str, int]:
        """Render a conversation; return it with the place of its response's first character."""
        response = turns[-1]["content"]
        try:
            whole = template.render(turns, generation_prompt=False)
            probe = template.render([*turns[:-1], {**turns[-1], "content": PROBE}], generation_prompt=False)
        except InputError as error:
            raise self._refused(error) from error
        head = len(probe.rpartition(PROBE)[0])
        if whole.startswith(response, head):
            return whole, head
        if whole.startswith(response.strip(), head):  # many templates strip the content
            return whole, head - (len(response) - len(response.lstrip()))
        raise InputError(self._key, response[:40], "a reward model whose chat template writes a response as it is")

    def _refused(self, error: InputError) -> InputError:
        return InputError(self._key, error.given, f"a reward model whose {error.allowed}")

    def _pair(self, prompt: str, response: str) -> Encoded:
        both = self._tokenizer(prompt, response, return_offsets_mapping=True, split_special_tokens=True)
        sides = both.sequence_ids()
        spans = [(a, b) if side == 1 else (0, 0) for (a, b), side in zip(both["offset_mapping"], sides, strict=True)]
        return Encoded(both["input_ids"], spans, both.get("token_type_ids"))


def prefix_places(spans: Sequence[tuple[int, int]], ends: Sequence[int]) -> list[int]:
    """Return, for each of the policy's tokens, the last of the other model's tokens that lies within the text so far.

    `ends` are the characters at which the policy's tokens end.
    """
    places, place = [], -1
    for end in ends:
        while place + 1 < len(spans) and spans[place + 1][1] <= end:
            place += 1
        places.append(place)
    return places


def spread(
    weights: Sequence[float], spans: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]
) -> list[float]:
    """Convert weights of the other model's tokens to weights of the policy's, by character.

    A token's weight is spread evenly over its characters. Weights outside the response are dropped; a token without
    characters gets 0.
    """
    size = max((end for _, end in offsets), default=0)
    by_character = [0.0] * size
    for weight, (start, end) in zip(weights, spans, strict=True):
        for c in range(max(0, start), min(size, end)):
            by_character[c] += weight / (end - start)
    return [sum(by_character[start:end]) for start, end in offsets]
