"""Chat templates: the rendering of a conversation, and the token that closes an assistant's turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from align.errors import InputError, first_line
from align.models.control_tokens import ControlTokens

# For tokenizers without a chat template: each turn under its role's name, the assistant's closed by EOS.
PLAIN_TEMPLATE = (
    r"{% for message in messages %}{{ message['role'] | capitalize + ':\n' + message['content'] }}"
    r"{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
Message = Mapping[str, Any]
Messages = Sequence[Message]
_CLOCK = "strftime_now"  # what transformers calls the current date in templates
_DATE_CODES = ("-d", "-m", "-H", "-I", "-M", "-S", "-j", "-y", *"aAbBcdDeFGHIjmMpSTuUVwWxXyYZ")  # longer ones first
KEPT = 4096  # prompts, of more rows than are read at once, whose text and tokens are kept
PROBE = "zqx"  # a content that no template writes itself
_USER = {"role": "user", "content": "hello"}
_REPLY = {"role": "assistant", "content": PROBE}


class Template:
    """The chat template of one tokenizer, with the arguments that it is given.

    `in_parts` says that the template takes contents as lists of parts, as those of vision models do, and leaves out
    strings.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None, today: date | None = None
    ) -> None:
        """Raises InputError where the template cannot be rendered, or leaves out what an assistant says.

        A template that writes the date writes `today` (None = this process's) at every rendering.
        """
        self._tokenizer, self.arguments = tokenizer, dict(arguments or {})
        self._today = today or date.today()
        self.in_parts = False
        # A prompt is rendered for itself and beside every reply to it.
        self._of_texts = lru_cache(KEPT)(lambda _, turns, prompt: self._render([dict(turn) for turn in turns], prompt))
        failed = self._fails()
        if failed is not None:
            self.in_parts = True
            self._of_texts.cache_clear()
            if self._fails() is not None:
                raise failed

    def render(self, messages: Messages, *, generation_prompt: bool, tools: Sequence[Any] | None = None) -> str:
        """Render a conversation; InputError where the template refuses it (a system turn, two user turns in a row)."""
        turns = tuple(tuple(message.items()) for message in messages)
        if tools or not all(isinstance(value, str) for turn in turns for _, value in turn):
            return self._render(messages, generation_prompt, tools)
        return self._of_texts(str(self._tokenizer.chat_template), turns, generation_prompt)

    def _render(self, messages: Messages, generation_prompt: bool, tools: Sequence[Any] | None = None) -> str:
        turns = [self._turn(message) for message in messages]
        try:
            return self._tokenizer.apply_chat_template(
                turns,
                tools=tools,
                chat_template=pinned(self._tokenizer.get_chat_template(tools=tools), self._today),
                add_generation_prompt=generation_prompt,
                tokenize=False,
                **self.arguments,
            )
        except jinja2.TemplateSyntaxError as error:
            given = f"line {error.lineno - (self.written_date is not None)}: {error.message}"
            raise InputError("model.chat_template", given, "a well-formed Jinja template") from error
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            roles = ", ".join(str(m.get("role")) for m in messages)
            allowed = f"what the template takes ({first_line(error)})"
            raise InputError("model.chat_template", f"turns of {roles}", allowed) from error

    @property
    def written_date(self) -> date | None:
        """Return the date that the template writes; None where it asks for none."""
        return self._today if _CLOCK in str(self._tokenizer.chat_template) else None

    def tail(self) -> str:
        """Return what the template writes after the content of a conversation's last turn, an assistant's."""
        return self.render([_USER, _REPLY], generation_prompt=False).rpartition(PROBE)[2]

    def sample(self) -> str:
        """Render a short conversation and the start of a reply: the text that the template writes itself."""
        return self.render([_USER, _REPLY], generation_prompt=True)

    def _fails(self) -> InputError | None:
        """Return what is wrong with the rendering of a short conversation; None where its reply is written."""
        try:
            whole = self.render([_USER, _REPLY], generation_prompt=False)
        except InputError as error:
            return error
        allowed = "a template that writes the content of an assistant's turn"
        return None if PROBE in whole else InputError("model.chat_template", "a template that leaves it out", allowed)

    def _turn(self, message: Message) -> dict[str, Any]:
        content = message.get("content")
        if self.in_parts and isinstance(content, str):
            return {**message, "content": [{"type": "text", "text": content}]}
        return dict(message)


def pinned(template: str, today: date) -> str:
    """Make a template that writes the current date write `today` instead, whichever format it asks for.

    A macro takes the place of the function that transformers gives to templates, and takes the formats apart itself:
    transformers hands a template no functions of others.
    """
    if _CLOCK not in template:
        return template
    codes = "".join(f".replace('%{code}', {today.strftime(f'%{code}')!r})" for code in _DATE_CODES)
    date_in_format = rf"format.replace('%%', '\x00'){codes}.replace('\x00', '%')"
    # The newline ends the macro's line, which Jinja leaves out: the template begins at a line's start, as it did.
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ {date_in_format} }}}}{{%- endmacro %}}\n{template}"


def read_template(tokenizer: PreTrainedTokenizerBase, path: str | Path | None) -> None:
    """Give a tokenizer the template of a file, else its own, else `PLAIN_TEMPLATE`.

    Raises:
        InputError: The file cannot be read.
    """
    if path is not None:
        try:
            tokenizer.chat_template = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("model.chat_template", str(Path(path)), "a readable Jinja file") from error
    elif tokenizer.chat_template is None:
        bos = "{{ bos_token }}" if tokenizer.bos_token_id in tokenizer("a")["input_ids"] else ""
        tokenizer.chat_template = bos + PLAIN_TEMPLATE


def closing_token(tail: str, control: ControlTokens, known: Collection[int]) -> int | None:
    """Choose the token at which a reply ends among those that the template writes after it.

    That is the first at which the model is known to end (`known`: the tokenizer's EOS and the generation config's);
    else the last special one; else the last of all, though it is not marked special. None where the template writes
    none: its turns end in text, or in nothing.
    """
    written = control.find(tail)
    ends = [i for i in written if i in known] or [i for i in written if i in control.special][-1:] or written[-1:]
    return ends[0] if ends else None
