"""What the template leaves out of rows: refused where it is said, else counted and said with the first row."""

from __future__ import annotations

import copy

import pytest

from align.config import AssistantTurns, BadRows, DataConfig, MixtureSource
from align.data.preferences import load_preferences
from align.data.prepared import Preferences
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer, make_chat_tokenizer

STRIPS = "m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']"


def load(chat: ChatTokenizer, path: str | None, **given) -> Preferences:
    limits = {"max_prompt_tokens": 1000, "max_response_tokens": 1000, "held_out_fraction": 0.0}
    return load_preferences(DataConfig(**(limits | given | {"path": path})), chat)


def writing(chat: ChatTokenizer, content: str) -> ChatTokenizer:
    """The chat tokenizer with another expression in the place of contents."""
    own = copy.deepcopy(chat.tokenizer)
    own.chat_template = own.chat_template.replace("m['content']", content)
    return make_chat_tokenizer(own)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def row(prompt: object, chosen: object = "Yes.", rejected: object = "No.", **more) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


@pytest.mark.parametrize(
    ("content", "given", "role", "lost"),
    [
        ("m['content'][:20]", row("And what is said behind that?"), "user", "ind that[?]"),
        ("m['content'][:20]", row("q", rejected="No, or it may be so after all."), "assistant", "after all."),
        (STRIPS, row("q", "<think>hm</think>Yes."), "assistant", "<think>hm</think>Yes."),
    ],
)
def test_a_row_whose_text_is_cut_is_refused(chat, write, content, given, role, lost):
    """In whichever row: the ones before it, of the same shape, are written whole."""
    path = write("a.jsonl", [row("p"), row("r"), given])
    with pytest.raises(
        InputError, match=rf"row 3: given \"content of a turn of '{role}'\".*leaves something out from '{lost}' on"
    ):
        load(writing(chat, content), path)
    data = load(writing(chat, content), path, bad_rows=BadRows.drop)
    assert (data.counts["malformed_dropped"], len(data.train)) == (1, 2)


def test_reasoning_of_earlier_answers_is_counted(chat, write):
    earlier = [user("q"), assistant("<think>hm</think>So."), user("r")]
    path = write("a.jsonl", [row("p"), row([user("q"), assistant("So."), user("r")]), row(earlier), row(earlier, "a")])
    data = load(writing(chat, STRIPS), path)
    assert data.counts["reasoning_unwritten"] == 2 and len(data.train) == 4
    (note,) = data.notes
    assert note == (
        f"the chat template leaves the reasoning of answers before the response of 2 rows out, the first: {path}, row 3"
    )
    plain = load(chat, path)
    assert plain.counts["reasoning_unwritten"] == 0 and plain.notes == ()


def test_an_earlier_answer_that_is_trained_on_is_a_response(chat, write):
    """A template that strips the thoughts of all answers but the last: each is whole where it is learned."""
    strips = f"({STRIPS}) if not loop.last else m['content']"
    turns = [user("q"), assistant("<think>hm</think>So."), user("r"), assistant("<think>so</think>Yes.")]
    path = write("a.jsonl", [{"messages": turns}])
    data = load(writing(chat, strips), path)
    assert [c.text for c in data.trained.demonstrations] == ["<think>hm</think>So.", "<think>so</think>Yes."]
    assert data.counts["reasoning_unwritten"] == 1
    with pytest.raises(InputError, match=r"row 1.*leaves something out from '.*' on"):
        load(writing(chat, STRIPS), path)
    turns[-1] = assistant("Yes.")
    with pytest.raises(InputError, match=r"row 1.*leaves something out from '.*' on"):
        load(writing(chat, STRIPS), write("b.jsonl", [{"messages": turns}]))
    assert len(load(writing(chat, STRIPS), str(path).replace("a.j", "b.j"), turns=AssistantTurns.last).train) == 0


def test_prompts_alone_are_compared_too(chat, write):
    cuts = writing(chat, "m['content'][:20]")
    with pytest.raises(InputError, match=r"row 2.*leaves something out from '.*' on"):
        load(cuts, write("a.jsonl", [{"prompt": "p"}, {"prompt": "And what is said behind that?"}]))


def test_keys_without_text_and_tools_are_counted(chat, write):
    turn, answer = user("q") | {"weight": 0}, assistant("Yes.") | {"train": False, "tags": [1, 2], "none": []}
    tools = [{"type": "function", "function": {"name": "add"}}]
    path = write("a.jsonl", [row("p"), row([turn], [answer]), row([turn], tools=tools), row("s", tools=[])])
    data = load(chat, path)
    assert (data.counts["keys_unwritten"], data.counts["tools_unwritten"], len(data.train)) == (2, 1, 4)
    assert data.notes == (
        f"the chat template leaves keys of the messages of 2 rows out, the first: {path}, row 2 (tags, train, weight)",
        f"the chat template leaves the tools of 1 rows out, the first: {path}, row 3",
    )


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_a_call_that_the_template_does_not_write_is_refused(chat, write, key):
    """With or without a content beside it; a template that writes it is trained on it."""
    call = {"name": "add", "arguments": '{"x": 3}'}
    given = {"role": "assistant", key: [{"function": call}] if key == "tool_calls" else call}
    for answer in (given, given | {"content": None}, given | {"content": ""}):
        path = write("a.jsonl", [row("p"), row("q", [answer], [assistant("No.")])])
        with pytest.raises(InputError, match=rf"row 2: given \"{key} of a turn of 'assistant'\".*leaves this out"):
            load(chat, path)
        data = load(writing(chat, f"m['content'] ~ (m['{key}'] | default('', true))"), path)
        assert "add" in data.train[1].chosen and data.notes == ()
    earlier = [user("p"), given, {"role": "tool", "content": "4"}]
    with pytest.raises(InputError, match=f"row 1.*{key} of a turn"):
        load(chat, write("b.jsonl", [row(earlier)]))


def test_a_column_of_tools_that_no_row_has_is_refused(chat, write):
    tools = [{"name": "add"}]
    path = write("a.jsonl", [row("p"), row("q", functions=tools)])
    with pytest.raises(
        InputError, match=r"^data\.tools_column: given 'nope'; allowed: .*: prompt, chosen, rejected, func"
    ):
        load(chat, path, tools_column="nope")
    for column, found in (("functions", 1), ("tools", 0), (None, 0)):
        assert load(chat, path, tools_column=column).counts["tools_unwritten"] == found
    other = MixtureSource(path=write("b.jsonl", [row("r")]))
    mixed = {"first": other, "second": MixtureSource(path=path)}
    assert load(chat, None, mixture=mixed, tools_column="functions").counts["tools_unwritten"] == 1
    with pytest.raises(
        InputError, match=r"^data\.tools_column: given 'functions'; allowed: .*: prompt, chosen, rejected$"
    ):
        load(chat, None, mixture={"first": other}, tools_column="functions")


def test_roles_that_a_template_does_not_name_are_counted(chat, write):
    rows = [row("p"), row([{"role": "User", "content": "q"}]), row([{"role": "critic", "content": "q"}, user("r")])]
    usual = [{"role": role, "content": role} for role in ("system", "developer", "user", "assistant", "tool", "user")]
    path = write("a.jsonl", [*rows, row(usual)])
    data = load(chat, path)
    assert (data.counts["other_roles"], len(data.train)) == (2, 4)
    (note,) = data.notes
    assert note == (
        "2 rows have turns of other roles than system, developer, user, assistant and tool, which the chat template "
        f"does not name, the first: {path}, row 2 (User)"
    )
    named = writing(chat, "('Critic: ' if m['role'] == 'critic' else '') ~ m['content']")
    assert load(named, path).counts["other_roles"] == 1


def test_columns_that_are_not_read_though_they_seem_to_belong_to_the_conversation(chat, write):
    own = [{"role": "system", "content": "Be kind."}, user("s")]
    rows = [
        row("p", system="", images=[]),
        row("q", system="Be brief."),
        row("r", images=["a.png"]),
        row(own, system="x"),
    ]
    path = write("a.jsonl", rows)
    data = load(chat, path)
    assert (data.counts["system_unread"], data.counts["media_unread"], len(data.train)) == (1, 1, 4)
    assert data.notes == (
        f"1 rows hold a system text in a column that is not read, the first: {path}, row 2 "
        "(data.system_column=system reads it)",
        f"1 rows hold images, audio or video, which is not read beside text, the first: {path}, row 3 (images)",
    )
    path = write("b.jsonl", rows[:3])
    for given in ({"system_column": "system"}, {"system": "{system}"}, {"system": "Be good."}):
        assert load(chat, path, **given).counts["system_unread"] == 0
    path = write("c.jsonl", [row("p", image="a.png"), row("q", image="b.png")])
    assert load(chat, path).counts["media_unread"] == 2
    assert load(chat, path, rejected="No {image}").counts["media_unread"] == 0
