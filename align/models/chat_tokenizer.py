"""Chat tokenizer: between chat messages, response texts and token ids; it fixes end tokens and PAD."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from align.config import ControlTokensIn, TemplateMismatch
from align.errors import InputError
from align.models.control_tokens import ControlTokens, shown
from align.models.coverage import Coverage, Omission
from align.models.offsets import TokenSpans
from align.models.templates import KEPT, Message, Messages, Template, closing_token, pinned, read_template
from align.models.tokenizer_identity import template_fingerprint, tokenizer_fingerprint


class _Conversation(NamedTuple):
    """A rendered conversation, with the stand-ins for the names of control tokens in its contents."""

    prompt: str
    whole: str
    marks: dict[str, str]
    turns: Messages
    tools: Sequence[Any] | None = None


class Reply(NamedTuple):
    """An encoded reply, with what its conversation says and the template leaves out of it."""

    ids: list[int]
    omitted: list[Omission]


class ChatTokenizer:
    """A model's tokenizer with its chat template.

    `end_ids` are the tokens that end a response; `end_id` is the one that ends given responses, and `closes` says
    whether the template writes it (else it is appended); `pad_id` is none of them and stands only where a mask is 0.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        control: ControlTokens,
        end_ids: Iterable[int],
        end_id: int,
        *,
        closes: bool,
        pad_id: int,
        parses: bool = False,
        mismatch: TemplateMismatch = TemplateMismatch.error,
    ) -> None:
        """`make_chat_tokenizer` chooses the ids.

        Args:
            parses: The names of control tokens in contents are read as tokens, as a plain render has them.
            mismatch: What becomes of a reply whose conversation the template writes otherwise than the prompt.
        """
        self.tokenizer, self.end_id, self.closes, self.pad_id = tokenizer, end_id, closes, pad_id
        self.end_ids = tuple(sorted({*end_ids, end_id}))
        self._template, self._control, self._parses, self._mismatch = template, control, parses, mismatch
        self._coverage = Coverage(template)
        self._prompt_ids = lru_cache(KEPT)(lambda text: tuple(control.encode([text], [{}])[0]))

    def encode_prompt(self, messages: Messages, tools: Sequence[Any] | None = None) -> list[int]:
        """Encode a conversation under the chat template, up to where the assistant's reply begins."""
        text, marks = self._prompt(messages, tools)
        return self._encoded_prompt(text, marks)

    def render_prompt(self, messages: Messages, tools: Sequence[Any] | None = None) -> str:
        """Render what `encode_prompt` encodes, stand-ins for the names of control tokens with their names behind it."""
        text, marks = self._prompt(messages, tools)
        return text + "".join(f"\0{mark}{name}" for mark, name in sorted(marks.items()))

    def encode_reply(self, messages: Messages, reply: str | Message, tools: Sequence[Any] | None = None) -> list[int]:
        """Encode an assistant's reply as the template writes it behind `encode_prompt(messages)`, its end token last.

        Raises:
            InputError: The template writes the conversation in another way than the prompt that sampling uses.
        """
        (ids,) = self.encode_replies([messages], [reply], [tools])
        if isinstance(ids, InputError):
            raise ids
        return ids

    def encode_replies(
        self,
        prompts: Sequence[Messages],
        replies: Sequence[str | Message],
        tools: Sequence[Sequence[Any] | None] | None = None,
    ) -> list[list[int] | InputError]:
        """Encode several replies, as `encode_reply`, in one call of the tokenizer; an error in a reply's place."""
        read = self.read_replies(prompts, replies, tools)
        return [one if isinstance(one, InputError) else one.ids for one in read]

    def read_replies(
        self,
        prompts: Sequence[Messages],
        replies: Sequence[str | Message],
        tools: Sequence[Sequence[Any] | None] | None = None,
    ) -> list[Reply | InputError]:
        """Encode several replies, as `encode_replies`, and compare what is said with what the template writes."""
        given = zip(prompts, replies, tools or [None] * len(prompts), strict=True)
        read = [self._conversation(*one) for one in given]
        plain = [one for one in read if isinstance(one, _Conversation) and not one.marks]
        encoded = self._encode(*plain)
        at_once = iter(zip(encoded[::2], encoded[1::2], strict=True))
        found: list[Reply | InputError] = []
        for one in read:
            if isinstance(one, InputError):
                found.append(one)
                continue
            ids = self._of_names(one) if one.marks else self._reply(one, *next(at_once))
            omitted = self._coverage.omissions(one.turns, one.whole, one.tools)
            found.append(ids if isinstance(ids, InputError) else Reply(ids, _named(omitted, one.marks)))
        return found

    def encode_plain(
        self, messages: Messages, reply: str | None = None, tools: Sequence[Any] | None = None
    ) -> list[int]:
        """Encode the template's render of a whole conversation in one piece, names of control tokens as such tokens.

        It is what other programs read; `encode_prompt` and `encode_reply` differ where a text names a control token.
        """
        turns = [*messages, *([] if reply is None else [{"role": "assistant", "content": reply}])]
        rendered = self._template.render(turns, generation_prompt=reply is None, tools=tools)
        return self.tokenizer(rendered, add_special_tokens=False)["input_ids"]

    def encode_said(self, messages: Messages, text: str) -> list[int]:
        """Encode what a policy said, behind the prompt as it is: its text holds what the template heads replies with.

        Names of control tokens that are not special are tokens in it, as `decode` writes those.
        """
        turns, marks = self._hide([*messages, {"role": "assistant", "content": text}])
        prompt = self._template.render(turns[:-1], generation_prompt=True)
        whole = prompt + self._control.unhide(turns[-1]["content"], marks) + self._template.tail()
        read = _Conversation(prompt, whole, marks, turns)
        return self._reply(read, *self._encode(read))

    @property
    def reads_names_as(self) -> str:
        """Return the option under which the names of control tokens in contents are read."""
        return (ControlTokensIn.tokens if self._parses else ControlTokensIn.text).value

    def notes(self) -> list[str]:
        """Say which date the chat template writes, and how replies end where it does not end them with a token."""
        said = []
        if self.written_date is not None:
            day = f"{self.written_date} in all of this run (model.template_date)"
            said.append(f"the chat template writes the date, {day}")
        if not self.closes:
            name = self.tokenizer.convert_ids_to_tokens(self.end_id)
            ends = "the chat template ends a turn without a token of its own"
            said.append(f"{ends}: {name!r} is appended to given responses")
        return said

    @property
    def identity(self) -> list[Any]:
        """Return all that decides on the tokens of a conversation, as JSON has it."""
        template = [template_fingerprint(self.tokenizer), str(self._template.arguments), str(self.written_date)]
        return [
            tokenizer_fingerprint(self.tokenizer, self.end_ids),
            *template,
            self.in_parts,
            self.end_id,
            self.pad_id,
            self._parses,
            self._mismatch.value,
        ]

    @property
    def written_date(self) -> date | None:
        """Return the date that the chat template writes; None where it writes none."""
        return self._template.written_date

    @property
    def in_parts(self) -> bool:
        """Return whether the template takes contents as lists of parts."""
        return self._template.in_parts

    def names_control_tokens(self, messages: Messages) -> bool:
        """Return whether a content of the conversation spells the name of a control token."""
        return self._control.named_in(messages)

    def omitted(self, messages: Messages, tools: Sequence[Any] | None = None) -> list[Omission]:
        """Return what a prompt says and the template leaves out of it."""
        turns, marks = self._hide(messages)
        text = self._template.render(turns, generation_prompt=True, tools=tools)
        return _named(self._coverage.omissions(turns, text, tools, generation_prompt=True), marks)

    def names_role(self, role: str) -> bool:
        """Return whether the chat template itself names a role."""
        return any(f"{quote}{role}{quote}" in str(self.tokenizer.chat_template) for quote in "'\"")

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids to text, without special tokens, ends and clean-up."""
        ids = [i for i in ids if i not in self._unread]
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def offsets(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the characters [start, end) of `decode(ids)` that each token stands for.

        Together they cover the text in order, without gap or overlap. A character whose bytes are spread over tokens
        belongs to the token that completes it; the others, and special tokens, get a zero-width span.
        """
        return self._spans(ids)

    def _prompt(self, messages: Messages, tools: Sequence[Any] | None) -> tuple[str, dict[str, str]]:
        """Render a prompt; also return the stand-ins for the names of control tokens in its contents."""
        turns, marks = self._hide(messages)
        return self._template.render(turns, generation_prompt=True, tools=tools), marks

    def _encoded_prompt(self, text: str, marks: Mapping[str, str]) -> list[int]:
        """Encode a rendered prompt, once as long as it is among the last ones."""
        return self._control.encode([text], [marks])[0] if marks else list(self._prompt_ids(text))

    def _hide(self, messages: Messages) -> tuple[list[dict[str, Any]], dict[str, str]]:
        return ([dict(m) for m in messages], {}) if self._parses else self._control.hide(messages)

    def _conversation(
        self, messages: Messages, reply: str | Message, tools: Sequence[Any] | None
    ) -> _Conversation | InputError:
        """Render a conversation without and with its reply."""
        last = {"role": "assistant", "content": reply} if isinstance(reply, str) else reply
        turns, marks = self._hide([*messages, last])
        try:
            prompt = self._template.render(turns[:-1], generation_prompt=True, tools=tools)
            whole = self._template.render(turns, generation_prompt=False, tools=tools)
        except InputError as error:
            return error
        if not whole.startswith(prompt):
            content = turns[-1].get("content")
            if self._mismatch is TemplateMismatch.error or not isinstance(content, str):
                return _unlike(prompt, whole)
            whole = prompt + content + self._template.tail()
        return _Conversation(prompt, whole, marks, turns, tools)

    def _encode(self, *read: _Conversation) -> list[list[int]]:
        """Encode the prompt and the whole of each conversation, one behind the other."""
        wholes = self._control.encode([one.whole for one in read], [one.marks for one in read])
        prompts = (self._encoded_prompt(one.prompt, one.marks) for one in read)
        return [ids for pair in zip(prompts, wholes, strict=True) for ids in pair]

    def _of_names(self, read: _Conversation) -> list[int] | InputError:
        """Encode the reply of a conversation that names control tokens, which not every tokenizer reads as text."""
        try:
            return self._reply(read, *self._encode(read))
        except InputError as error:
            return error

    def _reply(self, read: _Conversation, prompt: list[int], whole: list[int]) -> list[int]:
        """Cut a reply's tokens out of its conversation's, up to the end token; what follows is never sampled."""
        if whole[: len(prompt)] == prompt:
            ids = whole[len(prompt) :]
        else:  # the last token of the prompt merges with the reply's first: a prompt's ids never depend on the reply
            ids = self._control.encode_sections(read.whole[len(read.prompt) :], read.marks, start=False)
        ends = (at for at, token in enumerate(ids) if token in self.end_ids)
        end = next((at for at in ends if not self._control.writes_text(ids[at + 1 :])), None)
        return [*ids, self.end_id] if end is None else ids[: end + 1]

    @cached_property
    def _unread(self) -> frozenset[int]:
        return frozenset({*self.end_ids, self.pad_id})

    @cached_property
    def _spans(self) -> TokenSpans:
        return TokenSpans(self.decode, self.tokenizer("a", add_special_tokens=False)["input_ids"])


def _named(omitted: Sequence[Omission], marks: Mapping[str, str]) -> list[Omission]:
    """Put the names of control tokens back in place of their stand-ins."""
    return [one._replace(cut=shown(one.cut, marks)) for one in omitted]


def _unlike(prompt: str, whole: str) -> InputError:
    """Describe a template that writes a given conversation in another way than the prompt of a reply to come."""
    at = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole)))
    own, other = prompt[at : at + 30], whole[at : at + 30]
    given = f"a prompt that goes on {own!r} where the whole conversation has {other!r}"
    allowed = (
        "a template whose whole conversation begins with its prompt (model.template_arguments may turn thinking off), "
        "or model.template_mismatch=append"
    )
    return InputError("model.chat_template", given, allowed)


def make_chat_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    generation_config: GenerationConfig | None = None,
    chat_template_path: str | Path | None = None,
    *,
    vocab_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    parses: bool = False,
    mismatch: TemplateMismatch = TemplateMismatch.error,
    today: date | None = None,
) -> ChatTokenizer:
    """Make the chat tokenizer of a model.

    A response ends at any of: the tokenizer's EOS, every `generation_config.eos_token_id`, and the token with which the
    chat template closes an assistant's turn (`closing_token`; TRL issue 2059), also where it is not marked special.
    Given responses end at the last one, where there is one; else EOS is appended to them. The template is
    `chat_template_path`'s, the tokenizer's own, or a plain one, and gets `arguments`; where it writes a date, `today`
    (None = this day).

    PAD is the tokenizer's pad token unless that ends responses; otherwise the first of: a special token named like
    padding, the unknown token, another special token that the template does not write, the token of a byte that no
    UTF-8 text contains, all among the `vocab_size` rows of the model's embedding (None = the tokenizer's own size). The
    vocabulary is never extended: a new row would be a new outcome of every sampling step.

    Raises InputError for a template that cannot be read or rendered, no end token, or none that can serve as PAD.
    """
    read_template(tokenizer, chat_template_path)
    template, control = Template(tokenizer, arguments, today), ControlTokens(tokenizer)
    eos = generation_config.eos_token_id if generation_config is not None else None
    ends = [eos] if isinstance(eos, int) else list(eos or [])
    if tokenizer.eos_token_id is not None:
        ends.insert(0, tokenizer.eos_token_id)
    closing = closing_token(template.tail(), control, ends)
    if closing is None and not ends:
        raise InputError("model.path", tokenizer.name_or_path, "a tokenizer with an end-of-text token")
    end_id = ends[0] if closing is None else closing
    pad_id = _choose_pad(tokenizer, template, {*ends, end_id}, vocab_size)
    return ChatTokenizer(
        tokenizer,
        template,
        control,
        ends,
        end_id,
        closes=closing is not None,
        pad_id=pad_id,
        parses=parses,
        mismatch=mismatch,
    )


def with_pad(chat: ChatTokenizer) -> PreTrainedTokenizerBase:
    """Copy a tokenizer, its pad token the chat tokenizer's PAD: without one TRL would take EOS, and then read the score
    of the last token that is not EOS."""
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chat.pad_id)
    if chat.written_date is not None:
        tokenizer.chat_template = pinned(tokenizer.get_chat_template(), chat.written_date)
    return tokenizer


def save_chat(chat: ChatTokenizer, folder: Path) -> None:
    """Write a chat tokenizer beside its policy, so that plain generation stops where the run's sampling did.

    The generation config names every end. The tokenizer's EOS becomes the token that closes a turn, which other
    programs stop at, unless the template writes EOS somewhere itself.
    """
    tokenizer = chat.tokenizer
    if chat.closes and "eos_token" not in str(tokenizer.chat_template):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.end_id)
    tokenizer.save_pretrained(folder)
    generation = GenerationConfig()
    if (folder / GENERATION_CONFIG_NAME).is_file():
        generation = GenerationConfig.from_pretrained(folder)
    generation.eos_token_id = list(chat.end_ids)
    generation.pad_token_id = chat.pad_id
    generation.save_pretrained(folder)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return added | dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))


def _choose_pad(
    tokenizer: PreTrainedTokenizerBase, template: Template, end_ids: set[int], vocab_size: int | None
) -> int:
    rows = len(tokenizer) if vocab_size is None else vocab_size
    pad = tokenizer.pad_token_id
    if pad is not None and pad not in end_ids and pad < rows:
        return pad
    special = {i: name for i, name in sorted(_special_ids(tokenizer).items()) if i not in end_ids and i < rows}
    written = template.sample()
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
