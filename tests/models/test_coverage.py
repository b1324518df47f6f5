"""What templates leave out of conversations: by the real contents, in shapes of released templates."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from align.config import TemplateMismatch
from align.models.chat_tokenizer import ChatTokenizer, Reply, make_chat_tokenizer
from align.models.coverage import Omission
from tests.models.shapes import SHAPES, Shape
from tests.models.test_templates import RELEASED, conversation, holding, released

USER, ANSWER = {"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "It is what it is."}
CHATML = SHAPES["chatml"].template
TOOL = {"type": "function", "function": {"name": "add_up", "description": "adds", "parameters": {"type": "object"}}}


def chat_with(make_tokenizer, content: str, more: str = "") -> ChatTokenizer:
    """ChatML that writes `content`, an expression of Jinja, in place of each message's."""
    template = CHATML.replace("{{ m.content }}", f"{{{{ {content} }}}}{more}")
    return make_chat_tokenizer(holding(make_tokenizer("chatml"), Shape(template, SHAPES["chatml"].special)))


def omitted(chat: ChatTokenizer, messages: list[dict[str, Any]], reply: Any = ANSWER, tools: Any = None) -> list:
    (read,) = chat.read_replies([messages], [reply], [tools])
    assert isinstance(read, Reply)
    return bare(read.omitted)


def bare(found: list[Omission]) -> list[Omission]:
    """Omissions without the texts that are lost."""
    return [one._replace(cut=bool(one.cut) or "") for one in found]


LONG, TAGGED, CLOSED, ODD = "a text of more than twenty characters", "c<x>a</x>b", "a</x>", ' "q"\n\té\\ '


@pytest.mark.parametrize(
    ("content", "cut"),
    [
        ("m.content[:20]", {LONG}),
        ("m.content[-20:]", {LONG}),
        ("m.content.split('</x>')[-1]", {TAGGED, CLOSED}),
        ("m.content.split('<x>')[0] + m.content.split('</x>')[-1]", {TAGGED}),
        ("m.content.replace('e', '')", {LONG, "else"}),
        ("'' if m.content == 'else' else m.content", {"else"}),
        ("m.content | trim", set()),
        ("m.content.split() | join('\n')", set()),
        ("m.content | tojson", set()),
        ("m.content", set()),
    ],
)
def test_a_text_that_the_template_cuts_is_found_by_what_stands_in_it(make_tokenizer, content, cut):
    """In conversations of one shape, of which some are cut: what was found of one says nothing of the next."""
    chat = chat_with(make_tokenizer, content)
    for said in (LONG, TAGGED, CLOSED, "else", ODD, "."):
        found = omitted(chat, [USER], ANSWER | {"content": said})
        assert [(one.turn, one.key, one.cut) for one in found] == [(1, "content", True)] * (said in cut), said
        asked = bare(chat.omitted([USER | {"content": said}]))
        assert [(one.turn, one.key, one.cut) for one in asked] == [(0, "content", True)] * (said in cut), said


def test_a_text_that_stands_elsewhere_too_does_not_hide_that_it_is_cut(make_tokenizer):
    chat = chat_with(make_tokenizer, "m.content[:20] if m.role == 'assistant' else m.content")
    found = omitted(chat, [USER | {"content": LONG}], ANSWER | {"content": LONG})
    assert found == [Omission(1, "content", cut=True)]


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_of_released_models_those_that_strip_thoughts_are_found(make_tokenizer, path: Path):
    """Where tags of thoughts are read as tokens, and what stands there is known by transformers alone; as text, which
    is the default, no template cuts any."""
    draw, tokenizer = random.Random(path.stem), released(make_tokenizer, path)
    as_text, as_tokens = make_chat_tokenizer(tokenizer), make_chat_tokenizer(tokenizer, parses=True)
    for number in range(20):
        messages, _ = conversation(draw, system=False)
        thoughts = f"<think>{draw.choice(['', ' ', chr(10)])}zebra <b>{number}</b></think>" + draw.choice(["", "\n\n"])
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        thinking = set(answers[:: draw.choice([1, 2])])
        messages = [m | {"content": thoughts * (i in thinking) + m["content"]} for i, m in enumerate(messages)]
        assert as_text.omitted(messages) == []
        parts = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
        given = parts if as_tokens.in_parts else messages
        stripped = "zebra" not in tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
        cut = [Omission(i, "content", cut=True, reasoning=True) for i in sorted(thinking)] if stripped else []
        assert bare(as_tokens.omitted(messages)) == cut


def test_reasoning_is_what_stands_before_a_tag_in_an_answer(make_tokenizer):
    chat = chat_with(make_tokenizer, "m.content.split('</think>')[-1]")
    thoughts = ANSWER | {"content": "<think>hm</think>Yes."}
    asked = [USER, thoughts, USER]
    assert omitted(chat, asked) == [Omission(1, "content", cut=True, reasoning=True)]
    assert omitted(chat, [USER], thoughts) == [Omission(1, "content", cut=True, reasoning=True)]
    assert omitted(chat, [thoughts | USER | {"content": "a</think>b"}]) == [Omission(0, "content", cut=True)]
    silent = ANSWER | {"content": "<think>hm</think>"}
    assert omitted(chat, [USER, silent, USER]) == [Omission(1, "content", cut=True)]
    begins = chat_with(make_tokenizer, "m.content[:10]")
    assert omitted(begins, [USER | {"content": "So?"}], ANSWER | {"content": "See <b>this</b>."}) == [
        Omission(1, "content", cut=True)
    ]


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ("", set()),
        ("{{ m.weight }}", {"weight"}),
        ("{% if m.train is defined and not m.train %}!{% endif %}", {"train"}),
        ("{% if m.weight %}!{% endif %}", {"weight"}),
        ("{{ (m.tags or []) | join }}", {"tags"}),
        ("{{ m.notes.by if m.notes }}", {"notes"}),
        ("{{ m.empty }}", set()),
    ],
)
def test_keys_that_hold_no_text_are_read_where_they_change_what_is_written(make_tokenizer, more, kept):
    keys = {"weight": 0, "train": False, "tags": [1, 2], "notes": {"by": "me", "at": 3}, "empty": []}
    found = omitted(chat_with(make_tokenizer, "m.content", more), [USER | keys])
    left = sorted({"weight", "train", "tags", "notes"} - kept | ({"notes.at"} & {f"{key}.at" for key in kept}))
    assert found == [Omission(0, key) for key in left]


@pytest.mark.parametrize("arguments", [{"x": 3, "s": 'a "q"\n<é>'}, '{"x": 3}', {"x": 3}, {}])
def test_calls_are_written_with_all_that_they_hold(make_tokenizer, arguments):
    """As JSON, as Python writes it, or not; a template that writes names alone loses the arguments."""
    call = ANSWER | {"content": "", "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": arguments}}]}
    for written in ("m.tool_calls | tojson", "m.tool_calls"):
        chat = chat_with(make_tokenizer, "m.content", f"{{{{ {written} if m.tool_calls }}}}")
        assert omitted(chat, [USER], call) == []
    names = chat_with(make_tokenizer, "m.content", "{{ m.tool_calls[0].function.name if m.tool_calls }}")
    lost = omitted(names, [USER], call)
    assert all(one.is_said and one.key.startswith("tool_calls.function.arguments") for one in lost)
    assert bool(lost) == bool(arguments)
    (lost,) = omitted(chat_with(make_tokenizer, "m.content"), [USER], call)
    assert lost == Omission(1, "tool_calls") and lost.is_said
    beside = call | {"tool_calls": [{"function": {"name": "add"}, "took": "4 s"}]}
    (lost,) = omitted(names, [USER], beside)
    assert lost == Omission(1, "tool_calls.took") and not lost.is_said


@pytest.mark.parametrize(
    ("more", "written"),
    [
        ("", False),
        ("{% if loop.first and tools %}{{ tools | tojson }}{% endif %}", True),
        ("{% if loop.first and tools %}You may call tools.{% endif %}", False),
        ("{% if loop.first and tools %}{{ tools[0] }}{% endif %}", False),
    ],
)
def test_tools_are_written_by_name(make_tokenizer, more, written):
    tools = [TOOL, {"name": "subtract"}]
    chat = chat_with(make_tokenizer, "m.content", more)
    named = USER | {"content": "May I add_up or subtract?"}
    for messages in ([USER], [named]):
        expected = written or (messages == [named] and "tools" in more)
        assert omitted(chat, messages, tools=tools) == [Omission(-1, "tools")] * (not expected)
        assert omitted(chat, messages) == []


def test_a_template_that_refuses_other_texts_is_searched_for_each(make_tokenizer):
    refuses = "{% if m.content[:1] != 'W' %}{{ raise_exception('no') }}{% endif %}" * 2
    chat = chat_with(make_tokenizer, "m.content", "")
    template = chat.tokenizer.chat_template.replace("{{ m.content }}", "{{ m.content[:20] }}")
    chat.tokenizer.chat_template = refuses.replace("m.", "messages[0].") + template
    assert bare(chat.omitted([USER])) == []
    assert bare(chat.omitted([USER | {"content": f"What is {LONG}?"}])) == [Omission(0, "content", cut=True)]


def test_an_appended_answer_loses_its_call(make_tokenizer):
    """model.template_mismatch=append writes the content alone behind the prompt."""
    template = SHAPES["tool_calling"].template.replace("assistant\n{%", "assistant\n<think>{%")
    tokenizer = holding(make_tokenizer("chatml"), Shape(template, SHAPES["chatml"].special))
    chat = make_chat_tokenizer(tokenizer, mismatch=TemplateMismatch.append)
    call = ANSWER | {"tool_calls": [{"function": {"name": "add_up"}}]}
    assert omitted(chat, [USER]) == []
    assert omitted(chat, [USER], call) == [Omission(1, "tool_calls.function.name", cut=True)]


def test_roles_that_a_template_names(make_tokenizer):
    chat = make_chat_tokenizer(holding(make_tokenizer("chatml"), SHAPES["llama_2"]))
    assert chat.names_role("user") and chat.names_role("system") and not chat.names_role("critic")


@pytest.mark.parametrize(
    ("content", "said", "lost"),
    [
        ("m.content[:20]", "a text of more than twenty characters", "twenty characters"),
        ("m.content[:10]", "a text of  more than\n\ntwenty characters and some", "more than\n\ntwenty characters a..."),
        ("m.content[-20:]", "Every text of more than twenty characters", "Every text of more than twenty..."),
        ("m.content.split('</x>')[-1]", "<|im_end|> a</x>b", "<|im_end|> a</x>b"),
    ],
)
def test_what_is_lost_is_shown_from_where_it_breaks_off(make_tokenizer, content, said, lost):
    (one,) = chat_with(make_tokenizer, content).omitted([USER | {"content": said}])
    assert one.cut == lost
