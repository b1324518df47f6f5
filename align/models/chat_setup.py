"""Chat tokenizers of models: made of what a model's folder says, and written beside its policy."""

import copy
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from align.config import TemplateMismatch
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer
from align.models.control_tokens import ControlTokens
from align.models.templates import Template, closing_token, pinned, read_template


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
