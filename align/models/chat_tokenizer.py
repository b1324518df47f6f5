"""Chat tokenizer: between chat messages, response texts and token ids; it fixes end tokens and PAD."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from transformers import GenerationConfig, PreTrainedTokenizerBase

from align.errors import InputError, first_line
from align.models.offsets import TokenSpans

# For tokenizers without a chat template: each turn under its role's name, the assistant's closed by EOS.
PLAIN_TEMPLATE = (
    r"{% for message in messages %}{{ message['role'] | capitalize + ':\n' + message['content'] }}"
    r"{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
Messages = Sequence[Mapping[str, str]]
PROBE = "zqx"  # a content that no template writes itself
_USER = ({"role": "user", "content": "hello"},)


class ChatTokenizer:
    """A model's tokenizer with its chat template.

    `end_ids` are the tokens that end a response; `end_id` is the one appended to responses given as text; `pad_id` is
    none of them and stands only where a mask is 0.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: Iterable[int], end_id: int, *, pad_id: int) -> None:
        """`make_chat_tokenizer` chooses the ids; InputError where the tokenizer's chat template cannot be rendered."""
        self.tokenizer, self.end_id, self.pad_id = tokenizer, end_id, pad_id
        self.end_ids = tuple(sorted({*end_ids, end_id}))
        self._opening, self._before, self._after, self._strips = _assistant_turn(tokenizer)

    def encode_prompt(self, messages: Messages) -> list[int]:
        """Encode a conversation under the chat template, up to where the assistant's answer begins (`render`)."""
        return self._ids(render(self.tokenizer, messages, generation_prompt=True))

    def encode_response(self, text: str) -> list[int]:
        """Encode an assistant turn as the chat template writes it: the text's tokens and exactly one `end_id`.

        The text is encoded behind the turn's opening, since some tokenizers encode the start of a string otherwise. A
        special token's name inside the text stays text.
        """
        return self.encode_responses([text])[0]

    def encode_responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode several responses, as `encode_response`, in one call of the tokenizer."""
        texts = [self._before + (text.strip() if self._strips else text) + self._after for text in texts]
        encoded = self._behind_opening(texts, split_special_tokens=False)
        special = [i for i, ids in enumerate(encoded) if not self._special.isdisjoint(ids)]
        split = self._behind_opening([texts[i] for i in special], split_special_tokens=True)
        for i, ids in zip(special, split, strict=True):
            encoded[i] = ids
        return [[*ids, self.end_id] for ids in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids to text, without special tokens and without clean-up."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def offsets(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the characters [start, end) of `decode(ids)` that each token stands for.

        Together they cover the text in order, without gap or overlap. A character whose bytes are spread over tokens
        belongs to the token that completes it; the others, and special tokens, get a zero-width span.
        """
        return self._spans(ids)

    def _ids(self, text: str | list[str], **kwargs: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False, **kwargs)["input_ids"]

    def _behind_opening(self, texts: Sequence[str], **kwargs: Any) -> list[list[int]]:
        if not texts:
            return []
        opening, *both = self._ids([self._opening, *(self._opening + text for text in texts)], **kwargs)
        # A text that merges with the opening ("\n" + "\n") is encoded alone: a prompt's ids never depend on the answer.
        return [
            ids[len(opening) :] if ids[: len(opening)] == opening else self._ids(text, **kwargs)
            for text, ids in zip(texts, both, strict=True)
        ]

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset({*_special_ids(self.tokenizer), *self.end_ids, self.pad_id})

    @cached_property
    def _spans(self) -> TokenSpans:
        return TokenSpans(self.decode, self._ids("a"))


def make_chat_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    generation_config: GenerationConfig | None = None,
    chat_template_path: str | Path | None = None,
    *,
    vocab_size: int | None = None,
) -> ChatTokenizer:
    """Make the chat tokenizer of a model.

    A response ends at any of: the tokenizer's EOS, every `generation_config.eos_token_id`, and the special token with
    which the chat template closes an assistant turn (TRL issue 2059). The last one, where there is one, is appended to
    given responses, else EOS. The template is `chat_template_path`'s, the tokenizer's own, or `PLAIN_TEMPLATE`.

    PAD is the tokenizer's pad token unless that ends responses; otherwise the first of: a special token named like
    padding, the unknown token, another special token that the template does not write, the token of a byte that no
    UTF-8 text contains, all among the `vocab_size` rows of the model's embedding (None = the tokenizer's own size). The
    vocabulary is never extended: a new row would be a new outcome of every sampling step.

    Raises InputError for a template that cannot be read or rendered, no end token, or none that can serve as PAD.
    """
    if chat_template_path is not None:
        try:
            tokenizer.chat_template = Path(chat_template_path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("model.chat_template", str(Path(chat_template_path)), "a readable Jinja file") from error
    elif tokenizer.chat_template is None:
        bos = "{{ bos_token }}" if tokenizer.bos_token_id in tokenizer("a")["input_ids"] else ""
        tokenizer.chat_template = bos + PLAIN_TEMPLATE
    eos = generation_config.eos_token_id if generation_config is not None else None
    ends = [eos] if isinstance(eos, int) else list(eos or [])
    if tokenizer.eos_token_id is not None:
        ends.insert(0, tokenizer.eos_token_id)
    closing = _closing_token(tokenizer)
    if closing is None and not ends:
        raise InputError("model.path", tokenizer.name_or_path, "a tokenizer with an end-of-text token")
    end_id = ends[0] if closing is None else closing
    return ChatTokenizer(tokenizer, ends, end_id, pad_id=_choose_pad(tokenizer, {*ends, end_id}, vocab_size))


def with_pad(chat: ChatTokenizer) -> PreTrainedTokenizerBase:
    """Copy a tokenizer, its pad token the chat tokenizer's PAD: without one TRL would take EOS, and then read the score
    of the last token that is not EOS."""
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chat.pad_id)
    return tokenizer


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, generation_prompt: bool) -> str:
    """Render a conversation; InputError where the template refuses it (a system turn, two user turns in a row ...)."""
    turns = [dict(m) for m in messages]
    try:
        return tokenizer.apply_chat_template(turns, add_generation_prompt=generation_prompt, tokenize=False)
    except jinja2.TemplateSyntaxError as error:
        given = f"line {error.lineno}: {error.message}"
        raise InputError("model.chat_template", given, "a well-formed Jinja template") from error
    except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
        roles = ", ".join(str(m.get("role")) for m in messages)
        allowed = f"what the template takes ({first_line(error)})"
        raise InputError("model.chat_template", f"turns of {roles}", allowed) from error


def _assistant_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str, bool]:
    """Return the text that opens an assistant's turn, the blanks around the content, and whether it is stripped."""
    opening = render(tokenizer, _USER, generation_prompt=True)
    turn = render(tokenizer, [*_USER, {"role": "assistant", "content": PROBE}], generation_prompt=False)
    spaced = render(tokenizer, [*_USER, {"role": "assistant", "content": f" {PROBE} "}], generation_prompt=False)
    strips = spaced == turn
    if not turn.startswith(opening):  # the template opens given turns differently from generated ones
        return opening, "", "", strips
    head, _, tail = turn[len(opening) :].partition(PROBE)
    names = [re.escape(name) for name in _special_ids(tokenizer).values()]
    after = re.match(rf"(\s+)(?:{'|'.join(names)})", tail) if names else None
    return opening, head if head.isspace() else "", after[1] if after else "", strips


def _closing_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the special token that the template writes after an assistant's content (blanks may come between)."""
    turn = render(tokenizer, [*_USER, {"role": "assistant", "content": PROBE}], generation_prompt=False)
    tail = turn.rpartition(PROBE)[2].lstrip()
    names = sorted(_special_ids(tokenizer).values(), key=len, reverse=True)
    name = next((n for n in names if tail.startswith(n)), None)
    return None if name is None else tokenizer.convert_tokens_to_ids(name)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return added | dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))


def _choose_pad(tokenizer: PreTrainedTokenizerBase, end_ids: set[int], vocab_size: int | None) -> int:
    rows = len(tokenizer) if vocab_size is None else vocab_size
    pad = tokenizer.pad_token_id
    if pad is not None and pad not in end_ids and pad < rows:
        return pad
    special = {i: name for i, name in sorted(_special_ids(tokenizer).items()) if i not in end_ids and i < rows}
    written = render(tokenizer, [*_USER, {"role": "assistant", "content": PROBE}], generation_prompt=True)
    named = [i for i, name in special.items() if "pad" in name.lower()]
    unknown = [i for i in special if i == tokenizer.unk_token_id]
    unused = [i for i, name in special.items() if i != tokenizer.bos_token_id and name not in written]
    vocabulary = tokenizer.get_vocab()
    # 0xFF as byte-level BPE and as byte-fallback vocabularies spell it.
    impossible = [vocabulary[t] for t in ("ÿ", "<0xFF>") if t in vocabulary]
    candidates = [*named, *unknown, *unused, *impossible]
    if not candidates:
        raise InputError("model.path", tokenizer.name_or_path, "a tokenizer with a pad token that is not its EOS")
    if candidates[0] in special:
        tokenizer.pad_token = special[candidates[0]]  # so that a saved tokenizer and other libraries agree
    return candidates[0]
