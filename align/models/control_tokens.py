"""Control tokens: ids by which a template marks turns, ends and channels, and which no content may write.

Contents that spell a control token's name are hidden from the template behind stand-ins, single characters for private
use, and come back as the text that they are when the rendered conversation is encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from align.errors import InputError

_MARKUP = re.compile(r"[<\[|｜].*[>\]|｜]", re.DOTALL)  # the shapes in which control tokens are named
_PRIVATE = range(0xF0000, 0xFFFFE)  # Unicode's supplementary private use area A: characters of no text
_ANCHOR = chr(0x10FFFD)  # stands before a section of text that is encoded as the middle of a text


class ControlTokens:
    """Control tokens of one tokenizer under one template, and the encoding of text that may name them.

    An added token is a control token if it is special, named as markup, or written by the template itself. Added words
    and runs of blanks are ordinary vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        template = str(tokenizer.chat_template or "")
        added = {str(token): (i, token) for i, token in tokenizer.added_tokens_decoder.items()}
        special = set(map(str, tokenizer.all_special_tokens))
        self.ids: dict[str, int] = {
            name: i
            for name, (i, token) in added.items()
            if name.strip() and (token.special or name in special or _MARKUP.fullmatch(name) or name in template)
        }
        self.ids |= {name: tokenizer.convert_tokens_to_ids(name) for name in special if name not in self.ids}
        self.special = frozenset(i for name, i in self.ids.items() if name in special or added[name][1].special)
        longest = sorted(self.ids, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest))) if longest else None
        written = [_with_blanks(name, added[name][1] if name in added else None) for name in longest]
        self._written = re.compile("|".join(f"({one})" for one in written)) if longest else None
        self._order = [self.ids[name] for name in longest]

    def find(self, text: str) -> list[int]:
        """Return the ids of the control tokens that a text names, in order."""
        return [self.ids[name] for name in self._named(text)]

    def named_in(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether a text of a conversation spells the name of a control token."""
        return any(map(self._named, _texts(messages)))

    def writes_text(self, ids: Sequence[int]) -> bool:
        """Return whether tokens stand for more than blanks and control tokens."""
        own = set(self.ids.values())
        return bool(self._tokenizer.decode([i for i in ids if i not in own]).strip())

    def hide(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Replace the names of control tokens in all texts of a conversation by stand-ins.

        Returns the messages and the name by stand-in, empty where the texts name none.
        """
        named = sorted({name for text in _texts(messages) for name in self._named(text)})
        if not named:
            return [dict(message) for message in messages], {}
        used = {character for text in _texts(messages) for character in text}
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        stand_ins = dict(zip(named, free, strict=False))
        assert self._names is not None
        pattern = self._names

        def hidden(value: Any) -> Any:
            if isinstance(value, str):
                return pattern.sub(lambda found: stand_ins[found[0]], value)
            if isinstance(value, Mapping):
                return {key: hidden(part) for key, part in value.items()}
            return [hidden(part) for part in value] if isinstance(value, (list, tuple)) else value

        return [hidden(message) for message in messages], {mark: name for name, mark in stand_ins.items()}

    def unhide(self, text: str, marks: Mapping[str, str]) -> str:
        """Put back the names of those control tokens that are not special, to be read as tokens."""
        return shown(text, {mark: name for mark, name in marks.items() if self.ids[name] not in self.special})

    def encode(self, texts: Sequence[str], hidden: Sequence[Mapping[str, str]]) -> list[list[int]]:
        """Encode rendered conversations, or parts of one, as `hide` left them; the template's own names are tokens."""
        plain = [i for i, marks in enumerate(hidden) if not marks]
        ids: list[list[int]] = [[] for _ in texts]
        if plain:
            encoded = self._tokenizer([texts[i] for i in plain], add_special_tokens=False)["input_ids"]
            for i, own in zip(plain, encoded, strict=True):
                ids[i] = own
        for i, marks in enumerate(hidden):
            if marks:
                ids[i] = self.encode_sections(texts[i], marks, start=True)
        return ids

    def encode_sections(self, text: str, marks: Mapping[str, str], *, start: bool) -> list[int]:
        """Encode a text section by section, between the control tokens that are written in it.

        Args:
            marks: Names by stand-in (`hide`), which are read as text.
            start: Whether the text begins a sequence, where some tokenizers put a blank before the first word.

        Raises:
            InputError: The tokenizer has no other reading of a name than the control token.
        """
        return self.sections(text, marks, start=start)[0]

    def sections(self, text: str, marks: Mapping[str, str], *, start: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode as `encode_sections`; also return each token's characters [start, end) of `shown(text, marks)`."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        at = 0
        for part, token in self._parts(text):
            part = shown(part, marks)
            if token is not None:
                ids.append(token)
                spans.append((at, at + len(part)))
            else:
                own, places = self._as_text(part, start=start and not ids)
                ids += own
                spans += [(at + a, at + b) for a, b in places]
            at += len(part)
        return ids, spans

    def _named(self, text: str) -> list[str]:
        return self._names.findall(text) if self._names else []

    def _parts(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Yield the sections of a rendered text, and the control tokens between them with their ids."""
        at = 0
        for found in self._written.finditer(text) if self._written else ():
            if found.start() > at:
                yield text[at : found.start()], None
            assert found.lastindex is not None
            yield found[0], self._order[found.lastindex - 1]
            at = found.end()
        if at < len(text):
            yield text[at:], None

    def _as_text(self, text: str, *, start: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode a text in which no control token is read; the places of a slow tokenizer are unknown, and empty."""
        if self._without is None:
            ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            spans = [(0, 0)] * len(ids)
        else:
            lead = "" if start else _ANCHOR
            found = self._without.encode(lead + text, add_special_tokens=False)
            # By name, as the ids are another tokenizer's; an encoding's own names are texts where these are unknown.
            names = [str(self._without.id_to_token(i)) for i in found.ids[len(lead) :]]
            ids = [self._vocabulary[name] for name in names]
            spans = [(max(0, a - len(lead)), b - len(lead)) for a, b in found.offsets[len(lead) :]]
        read = set(self._named(text)) & set(self._tokenizer.convert_ids_to_tokens(ids))  # <unk> may stand for others
        if read:
            allowed = f"a text without {', '.join(sorted(read))}, which this tokenizer reads as a control token"
            raise InputError("data", text[:60], allowed)
        return ids, spans

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self._tokenizer.get_vocab()

    @cached_property
    def _without(self) -> Tokenizer | None:
        """The fast tokenizer without its control tokens, with an anchor; None where it is not a fast one."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        saved = json.loads(backend.to_str())
        kept = [token for token in saved["added_tokens"] if token["content"] not in self.ids]
        own = Tokenizer.from_str(json.dumps(saved | {"added_tokens": kept, "truncation": None, "padding": None}))
        own.add_special_tokens([_ANCHOR])
        return own


def _with_blanks(name: str, token: Any) -> str:
    """Write the pattern of a token in a text: some take the blanks beside them."""
    left, right = (r"\s*" if getattr(token, side, False) else "" for side in ("lstrip", "rstrip"))
    return f"{left}{re.escape(name)}{right}"


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a conversation, also those of tool calls."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)


def shown(text: str, marks: Mapping[str, str]) -> str:
    """Put the names back in place of their stand-ins."""
    for mark, name in marks.items():
        text = text.replace(mark, name)
    return text
