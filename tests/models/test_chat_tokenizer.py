"""Turns to ids and back: what is sampled, trained on and scored must be the same tokens."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from align.config import TemplateMismatch
from align.errors import InputError
from align.models.chat_setup import make_chat_tokenizer

KINDS = ["chatml", "gpt2", "metaspace"]
USER = [{"role": "user", "content": "Compare 3 and 5."}]
TEXTS = ["Hello there", "", "5 is larger. The user asks", "héllo 😀 日本語", "a\nb  c", "x <|im_end|> y </s>", "!", "3"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_prompt_and_response_are_the_templates_own_rendering(make_tokenizer, kind, text):
    chat = make_chat_tokenizer(make_tokenizer(kind))
    turns = [*USER, {"role": "assistant", "content": text}]
    whole = chat.tokenizer.apply_chat_template(turns, tokenize=False)
    ids = chat.encode_prompt(USER) + chat.encode_reply(USER, text)
    if "<" in text:  # the template's rendering would take the name of a special token for the token
        assert chat.decode(chat.encode_reply(USER, text)) == text
        return
    rendered = chat.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert rendered[: len(ids)] == ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_response_has_one_end_token_and_decodes_to_its_text(make_tokenizer, kind, text):
    chat = make_chat_tokenizer(make_tokenizer(kind))
    ids = chat.encode_reply(USER, text)
    assert ids[-1] == chat.end_id
    assert not set(ids[:-1]) & set(chat.end_ids)
    assert chat.decode(ids) == text


def test_prompt_ends_with_the_generation_prompt(make_tokenizer):
    chat = make_chat_tokenizer(make_tokenizer("chatml"))
    text = chat.tokenizer.decode(chat.encode_prompt(USER))
    assert text == "<|im_start|>user\nCompare 3 and 5.<|im_end|>\n<|im_start|>assistant\n"


def test_plain_template_where_the_tokenizer_has_none(make_tokenizer):
    chat = make_chat_tokenizer(make_tokenizer("gpt2"))
    assert chat.tokenizer.decode(chat.encode_prompt(USER)) == "User:\nCompare 3 and 5.\n\nAssistant:\n"


def test_plain_template_writes_bos_only_where_the_tokenizer_does(make_tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer("metaspace")
    bos = tokenizer.bos_token_id
    assert make_chat_tokenizer(tokenizer).encode_prompt(USER).count(bos) == 0
    tokenizer = make_tokenizer("metaspace")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    ids = make_chat_tokenizer(tokenizer).encode_prompt(USER)
    assert ids[0] == bos
    assert ids.count(bos) == 1


def test_end_ids_are_eos_generation_config_and_the_templates_own(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    chat = make_chat_tokenizer(tokenizer, GenerationConfig(eos_token_id=[1, 7]))
    eos, im_end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert chat.end_ids == tuple(sorted({eos, im_end, 1, 7}))
    assert chat.end_id == im_end
    assert make_chat_tokenizer(make_tokenizer("gpt2")).end_ids == (0,)


@pytest.mark.parametrize(("known", "end"), [(True, "<|im_end|>"), (False, "<|endoftext|>")])
def test_a_response_ends_at_the_first_token_at_which_the_model_is_known_to_end(make_tokenizer, known, end):
    """Phi-3 writes <|end|> and then, at the end of the conversation, EOS; its generation config names both."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template += "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    chat = make_chat_tokenizer(tokenizer, GenerationConfig(eos_token_id=ends if known else ends[0]))
    assert chat.end_id == tokenizer.convert_tokens_to_ids(end)
    written = tokenizer.decode(chat.encode_reply(USER, "Hello"))
    assert written == ("Hello<|im_end|>" if known else "Hello<|im_end|>\n<|endoftext|>")


def test_blanks_around_the_content_belong_to_the_turn(make_tokenizer):
    """Llama 2's ` content </s>`: with them the ids are those the model was trained on."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    chat = make_chat_tokenizer(tokenizer)
    turns = [*USER, {"role": "assistant", "content": "  Hello "}]
    whole = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False))["input_ids"]
    assert chat.encode_prompt(USER) + chat.encode_reply(USER, "  Hello ") == whole


def test_template_that_opens_given_turns_differently(make_tokenizer):
    """Reasoning models open a generated turn with <think>, a given one without: refused, or appended on demand."""
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<t>\n")
    chat = make_chat_tokenizer(tokenizer)
    with pytest.raises(InputError, match=r"goes on '<t>\\\\n'.*has 'Hello<.im_end.>.*template_mismatch=append"):
        chat.encode_reply(USER, "Hello")
    chat = make_chat_tokenizer(tokenizer, mismatch=TemplateMismatch.append)
    ids = chat.encode_prompt(USER) + chat.encode_reply(USER, "Hello")
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n<t>\nHello<|im_end|>")


def test_pad_is_never_an_end(make_tokenizer):
    chatml = make_chat_tokenizer(make_tokenizer("chatml"))
    assert chatml.tokenizer.convert_ids_to_tokens(chatml.pad_id) == "<|pad|>"
    tokenizer = make_tokenizer("chatml")
    tokenizer.pad_token = "<|im_end|>"  # as SmolLM2 instruct stores it
    chat = make_chat_tokenizer(tokenizer)
    assert chat.pad_id == tokenizer.convert_tokens_to_ids("<|pad|>") == tokenizer.pad_token_id
    assert chat.pad_id not in chat.end_ids


def test_pad_of_a_tokenizer_with_one_special_token_is_a_byte_outside_utf8(make_tokenizer):
    tokenizer = make_tokenizer("gpt2")
    size = len(tokenizer)
    chat = make_chat_tokenizer(tokenizer)
    assert chat.pad_id not in chat.end_ids
    assert chat.pad_id < size == len(tokenizer)
    every_byte = "".join(map(chr, range(0x2FF))) + "ÿ😀"
    assert chat.pad_id not in chat.encode_reply(USER, every_byte)


def test_unknown_token_is_the_pad_before_others(make_tokenizer):
    tokenizer = make_tokenizer("metaspace")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    assert make_chat_tokenizer(tokenizer).pad_id == tokenizer.convert_tokens_to_ids("<unk>")
    tokenizer = make_tokenizer("metaspace")
    tokenizer.add_special_tokens({"unk_token": "<extra>"})
    assert make_chat_tokenizer(tokenizer).pad_id == tokenizer.convert_tokens_to_ids("<extra>")


def test_pad_beyond_the_models_embedding_is_not_taken(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert make_chat_tokenizer(tokenizer).pad_id == len(tokenizer) - 1
    assert make_chat_tokenizer(tokenizer, vocab_size=len(tokenizer) - 1).pad_id == tokenizer.convert_tokens_to_ids(
        "<|pad|>"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_tile_the_decoded_text(make_tokenizer, kind):
    """For text as encoded, and for arbitrary ids, which sampling may give: cut characters, specials, unknown ids."""
    chat = make_chat_tokenizer(make_tokenizer(kind))
    draw = random.Random(0)
    samples = [chat.encode_reply(USER, text) for text in TEXTS]
    samples += [[draw.randrange(len(chat.tokenizer) + 3) for _ in range(draw.randrange(30))] for _ in range(150)]
    for ids in samples:
        spans, text = chat.offsets(ids), chat.decode(ids)
        assert len(spans) == len(ids)
        assert [start for start, _ in spans] == [0, *(end for _, end in spans)][: len(ids)]
        assert all(start <= end for start, end in spans)
        assert not ids or spans[-1][1] == len(text)


def test_offsets_name_the_characters_of_each_token(make_tokenizer):
    chat = make_chat_tokenizer(make_tokenizer("chatml"))
    ids = chat.encode_reply(USER, "Hello there, 3 é")
    spans = chat.offsets(ids)
    spelled = ["Hello there, 3 é"[a:b] for a, b in spans]
    assert spelled == [*[chat.decode([i]).replace("\ufffd", "") for i in ids[:-3]], "", "é", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_a_spread_character_belongs_to_the_token_that_completes_it(make_tokenizer, kind):
    chat = make_chat_tokenizer(make_tokenizer(kind))
    ids = chat.encode_reply(USER, "a😀b")
    assert [s for s in chat.offsets(ids) if s[0] < s[1]] == [(0, 1), (1, 2), (2, 3)]
    spans = chat.offsets(ids)
    assert spans.index((1, 2)) == len(ids) - 3  # right before b and the end token


def test_offsets_with_a_special_token_inside(make_tokenizer):
    chat = make_chat_tokenizer(make_tokenizer("chatml"))
    hello, there = chat.encode_reply(USER, "Hello")[:-1], chat.encode_reply(USER, " there")[:-1]
    spans = chat.offsets([*hello, chat.end_id, *there])
    assert spans[len(hello)] == (5, 5)
    assert spans[-1][1] == 11


def test_sampled_ids_that_the_tokenizer_would_merge(make_tokenizer):
    chat = make_chat_tokenizer(make_tokenizer("chatml"))
    ids = [chat.encode_reply(USER, c)[0] for c in "Hello"]
    assert ids != chat.encode_reply(USER, "Hello")[:-1]
    assert chat.offsets(ids) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_template_from_a_file(make_tokenizer, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text("{% for m in messages %}<{{ m['content'] }}>{% endfor %}")
    chat = make_chat_tokenizer(make_tokenizer("chatml"), chat_template_path=file)
    assert chat.decode(chat.encode_prompt(USER)) == "<Compare 3 and 5.>"


@pytest.mark.parametrize(("content", "told"), [(None, "readable"), ("{% for %}", "well-formed")])
def test_bad_template_file(make_tokenizer, tmp_path, content, told):
    file = tmp_path / "t.jinja"
    if content:
        file.write_text(content)
    with pytest.raises(InputError, match=rf"model\.chat_template.*{told}") as caught:
        make_chat_tokenizer(make_tokenizer("chatml"), chat_template_path=file)
    assert "\n" not in str(caught.value)


def test_template_that_refuses_the_messages(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    guard = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    tokenizer.chat_template = guard + tokenizer.chat_template
    chat = make_chat_tokenizer(tokenizer)
    with pytest.raises(InputError, match=r"turns of 'system, user'|system, user.*no system turns"):
        chat.encode_prompt([{"role": "system", "content": "s"}, *USER])


def test_no_end_token_at_all(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    with pytest.raises(InputError, match=r"model\.path.*end-of-text"):
        make_chat_tokenizer(tokenizer)


def test_a_name_that_the_tokenizer_cannot_read_as_text_is_an_error_of_its_row():
    """A unigram model has the name of a control token as a piece of its own: no other row is concerned."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz<>/:\n")]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    chat = make_chat_tokenizer(PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>", eos_token="</s>"))
    asked = [{"role": "user", "content": "say"}]
    first, named, last = chat.encode_replies([asked] * 3, ["yes", "a </s> b", "no"])
    assert chat.decode(first) == "yes" and chat.decode(last) == "no"
    assert isinstance(named, InputError) and "</s>" in str(named) and "control token" in str(named)
