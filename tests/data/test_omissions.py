"""What the template leaves out of rows: refused where it is said, else counted and said with the first row."""

from __future__ import annotations

import copy

import pytest

from align.config import AssistantTurns, BadRows, DataConfig
from align.data.preferences import Preferences, load_preferences
from align.errors import InputError
from align.models.chat_tokenizer import ChatTokenizer, make_chat_tokenizer

STRIPS = "m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']"


def load(chat: ChatTokenizer, path: str, **given) -> Preferences:
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
    ("content", "given", "role"),
    [
        ("m['content'][:20]", row("And what is said behind that?"), "user"),
        ("m['content'][:20]", row("q", rejected="No, or it may be so after all."), "assistant"),
        (STRIPS, row("q", "<think>hm</think>Yes."), "assistant"),
    ],
)
def test_a_row_whose_text_is_cut_is_refused(chat, write, content, given, role):
    """In whichever row: the ones before it, of the same shape, are written whole."""
    path = write("a.jsonl", [row("p"), row("r"), given])
    with pytest.raises(InputError, match=rf"row 3: given \"content of a turn of '{role}'\".*leaves a part of this out"):
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
    with pytest.raises(InputError, match=r"row 1.*a part of this"):
        load(writing(chat, STRIPS), path)
    turns[-1] = assistant("Yes.")
    with pytest.raises(InputError, match=r"row 1.*a part of this"):
        load(writing(chat, STRIPS), write("b.jsonl", [{"messages": turns}]))
    assert len(load(writing(chat, STRIPS), str(path).replace("a.j", "b.j"), turns=AssistantTurns.last).train) == 0


def test_prompts_alone_are_compared_too(chat, write):
    cuts = writing(chat, "m['content'][:20]")
    with pytest.raises(InputError, match=r"row 2.*a part of this"):
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
