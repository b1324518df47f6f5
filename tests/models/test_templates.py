"""Trained tokens are those of the whole conversation's render: in shapes of released templates, expected ids by
transformers alone."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import trl
from transformers import PreTrainedTokenizerBase

from align.errors import InputError
from align.models.chat_setup import make_chat_tokenizer
from align.models.chat_tokenizer import ChatTokenizer
from tests.models.shapes import SHAPES, Shape

KINDS = ("chatml", "metaspace")  # of tokenizers: bytes, and pieces that hold their blank
WORDS = (
    "Compare",
    "3",
    " and",
    "5.",
    "\n",
    "\n\n",
    "  ",
    "é",
    "😀",
    "日本",
    "The",
    " user",
    "<b>",
    "[x]",
    "|",
    "1e5",
    "\t",
)
ROUNDS = 100


def holding(tokenizer: PreTrainedTokenizerBase, shape: Shape) -> PreTrainedTokenizerBase:
    """Give a tokenizer a shape's template and control tokens."""
    if "<s>" in shape.special:
        tokenizer.add_special_tokens({"bos_token": "<s>"})
    if shape.eos is not None:
        tokenizer.add_special_tokens({"eos_token": shape.eos})
    tokenizer.add_tokens(list(shape.special), special_tokens=True)
    tokenizer.add_tokens(list(shape.added))
    tokenizer.chat_template = shape.template
    return tokenizer


def conversation(draw: random.Random, *, system: bool) -> tuple[list[dict[str, str]], str]:
    """Generate a prompt of one to three rounds and a reply."""

    def text() -> str:
        return "".join(draw.choices(WORDS, k=draw.randrange(1, 9))).strip() or "x"

    messages = [{"role": "system", "content": text()}] if system and draw.random() < 0.4 else []
    for _ in range(draw.randrange(3)):
        messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
    return [*messages, {"role": "user", "content": text()}], text() + draw.choice(["", " ", "\n"])


def plain(tokenizer: PreTrainedTokenizerBase, messages: list[dict], *, prompt: bool) -> list[int]:
    """Encode a conversation by transformers alone."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def check(chat: ChatTokenizer, messages: list[dict], reply: str, *, parts: bool = False) -> str:
    """Compare one conversation's tokens; returns how they agree: equal, or the prompt's last token merges."""
    tokenizer, answer = chat.tokenizer, {"role": "assistant", "content": reply}
    turns = [*messages, answer]
    if parts:
        turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    prompt, ids = chat.encode_prompt(messages), chat.encode_reply(messages, reply)
    assert prompt == plain(tokenizer, turns[:-1], prompt=True)
    whole = plain(tokenizer, turns, prompt=False)
    assert ids[-1] == chat.end_id and chat.end_id in chat.end_ids
    ours = [*prompt, *ids]
    if not chat.closes:
        assert ids[-1] not in whole[len(prompt) :]
        ours = ours[:-1]
    if whole[: len(prompt)] == prompt:
        assert whole[: len(ours)] == ours
        after = tokenizer.decode(whole[len(ours) :], skip_special_tokens=True)
        assert not after.strip()
        return "equal"
    assert tokenizer.decode(whole).startswith(tokenizer.decode(ours))  # the same text
    return "merges"


# Where the last token of a prompt is another one once a reply follows: sampling cannot know, and its tokens count.
MERGING = {
    ("chatml", "llama_3"),  # a byte-level pre-tokenizer keeps the last of two newlines for the word behind it
    *((kind, name) for kind in KINDS for name in ("opened_thoughts", "ends_in_text")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_trained_tokens_are_the_whole_renders(make_tokenizer, kind, name):
    chat = make_chat_tokenizer(holding(make_tokenizer(kind), SHAPES[name]))
    draw = random.Random(f"{kind} {name}")
    found = {check(chat, *conversation(draw, system=SHAPES[name].system)) for _ in range(ROUNDS)}
    assert "equal" in found or (kind, name) in MERGING
    assert "merges" not in found or (kind, name) in MERGING


ENDS = {
    "chatml": "<|im_end|>",
    "chatml_end_not_special": "<|im_end|>",
    "llama_2": "</s>",
    "llama_3": "<|eot_id|>",
    "gemma_without_system": "<end_of_turn>",
    "mistral": "</s>",
    "phi_end_and_eos": "</s>",
    "zephyr": "</s>",
    "deepseek_strips_thoughts": "<｜end｜>",
    "qwen_thinking": "<|im_end|>",
    "opened_thoughts": "<|im_end|>",
    "harmony": "<|return|>",
    "tool_calling": "<|im_end|>",
    "strips": "</s>",
    "ends_in_text": "<|endoftext|>",
    "dates_itself": "<|im_end|>",
}


@pytest.mark.parametrize("name", SHAPES)
def test_end_tokens(make_tokenizer, name):
    chat = make_chat_tokenizer(holding(make_tokenizer("chatml"), SHAPES[name]))
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_id) == ENDS[name]
    assert chat.closes == (name != "ends_in_text")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_control_tokens_name_in_a_text_is_text(make_tokenizer, kind, name):
    """In prompts and replies, also of tokens that are not special; on demand they are tokens, as a plain render's."""
    shape = SHAPES[name]
    tokenizer = holding(make_tokenizer(kind), shape)
    chat, reading = make_chat_tokenizer(tokenizer), make_chat_tokenizer(tokenizer, parses=True)
    controls = tokenizer.convert_tokens_to_ids([*shape.special, *shape.added, *tokenizer.all_special_tokens])

    def said(middle: str) -> tuple[list[dict[str, str]], str]:
        turns = [("user", f"a {middle} b"), ("assistant", f"c{middle}"), ("user", f"{middle}d")]
        return [{"role": role, "content": content} for role, content in turns], f"e {middle} f"

    neutral, reply = said("zzz")
    usual = [*chat.encode_prompt(neutral), *chat.encode_reply(neutral, reply)]
    for token in {*shape.special, *shape.added, *tokenizer.all_special_tokens}:
        messages, reply = said(token)
        prompt, ids = chat.encode_prompt(messages), chat.encode_reply(messages, reply)
        assert [i for i in [*prompt, *ids] if i in controls] == [i for i in usual if i in controls], token
        assert tokenizer.decode([*prompt, *ids]).count(token) == 4 + tokenizer.decode(usual).count(token)
        assert reply in chat.decode(ids)
        assert chat.names_control_tokens(messages) and not chat.names_control_tokens(neutral)
        if name != "deepseek_strips_thoughts":
            assert reading.encode_prompt(messages) == plain(tokenizer, messages, prompt=True)


def test_runs_of_blanks_and_added_words_are_no_control_tokens(make_tokenizer):
    """GPT-NeoX and Phi have added tokens for runs of blanks: code in a text is read with them."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.add_tokens(["    ", "Zürich"])
    chat = make_chat_tokenizer(tokenizer)
    own = tokenizer.convert_tokens_to_ids(["    ", "Zürich"])
    messages = [{"role": "user", "content": "if:    x in Zürich <|im_end|>"}]
    assert not chat.names_control_tokens([{"role": "user", "content": "    Zürich"}])
    assert set(own) < set(chat.encode_prompt(messages))  # also where another name has the text read by sections


RELEASED = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
NAMES = re.compile(r"<[^<>\s{}%'\"]{1,40}>|\[/?[A-Z_]{2,20}\]|<turn\||turn\|>")
OPENED = ("deepseek", "nemotron")  # open thoughts in the prompt that a given reply without thoughts does not have


def released(make_tokenizer, path: Path) -> PreTrainedTokenizerBase:
    """A tokenizer that holds the control tokens of a released model's template; those of thoughts are not special."""
    text = path.read_text()
    names = sorted(set(NAMES.findall(text)))
    special = tuple(name for name in names if "think" not in name)
    added = tuple(name for name in names if "think" in name)
    return holding(make_tokenizer("chatml"), Shape(text, ("<s>", *special), added))


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_templates_of_released_models(make_tokenizer, path):
    """Where the template marks what is trained on ({% generation %}), its marks are our tokens.

    Up to what the prompt holds already, and what stands between the end and the next turn: neither is ever sampled.
    """
    tokenizer = released(make_tokenizer, path)
    chat, draw = make_chat_tokenizer(tokenizer), random.Random(path.stem)
    for _ in range(ROUNDS):
        messages, reply = conversation(draw, system=False)
        parts = chat.in_parts
        if path.stem.startswith(OPENED):
            with pytest.raises(InputError, match="template_mismatch"):
                chat.encode_reply(messages, reply)
            continue
        check(chat, messages, reply, parts=parts)
        if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
            ours = tokenizer.decode(chat.encode_reply(messages, reply))
            before, marked, after = marks(tokenizer, messages, reply, parts=parts).partition(ours)
            assert marked and not after.strip()
            assert tokenizer.decode(chat.encode_prompt(messages)).endswith(before)


def marks(tokenizer: PreTrainedTokenizerBase, messages: list[dict], reply: str, *, parts: bool) -> str:
    """Decode what a template marks as generated in the last turn."""
    turns = [*messages, {"role": "assistant", "content": reply}]
    if parts:
        turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    found = tokenizer.apply_chat_template(turns, tokenize=True, return_assistant_tokens_mask=True, return_dict=True)
    mask = found["assistant_masks"]
    end = len(mask) - mask[::-1].index(1)
    start = end - [*mask[:end][::-1], 0].index(0)
    return tokenizer.decode(found["input_ids"][start:end])


@pytest.mark.parametrize("path", [p for p in RELEASED if p.stem.startswith("nemotron")], ids=lambda path: path.stem)
def test_thoughts_are_turned_off_by_an_argument_of_the_template(make_tokenizer, path):
    chat = make_chat_tokenizer(released(make_tokenizer, path), arguments={"enable_thinking": False})
    messages, reply = conversation(random.Random(0), system=False)
    whole = chat.tokenizer.decode([*chat.encode_prompt(messages), *chat.encode_reply(messages, reply)])
    assert whole.endswith(f"<think></think>{reply.strip()}<|im_end|>")
