"""Turns that texts hold, as JSON or as Human: and Assistant:, are read as turns in all places that a shape has."""

from __future__ import annotations

import json

import pytest

from align.config import DataConfig
from align.data.preferences import load_preferences
from align.data.prepared import Preferences
from align.errors import InputError

LENGTHS = {"held_out_fraction": 0.0, "max_prompt_tokens": 512, "max_response_tokens": 512}
ASKED = ({"role": "user", "content": "q"},)
LONGER = (*ASKED, {"role": "assistant", "content": "a"}, {"role": "user", "content": "more"})


def load(chat, path: str, **settings) -> Preferences:
    return load_preferences(DataConfig(path=path, **(LENGTHS | settings)), chat)


def talk(reply: str) -> str:
    return f"\n\nHuman: q\n\nAssistant: {reply}"


def as_json(reply: str, *before: dict) -> str:
    return json.dumps([*before, {"role": "assistant", "content": reply}])


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"responses": [as_json("good", *ASKED), as_json("bad", *ASKED)]}, ASKED),
        ({"prompt": "q", "responses": [as_json("good"), as_json("bad")]}, ASKED),
        ({"prompt": "q", "responses": json.dumps([as_json("good"), as_json("bad")])}, ASKED),  # as a CSV file has them
        ({"prompt": "q", "responses": [as_json("good"), "bad"]}, ASKED),
        ({"responses": [talk("good"), talk("bad")]}, ASKED),
        ({"prompt": "q", "responses": [talk("good"), talk("bad")]}, ASKED),
        ({"prompt": "q", "chosen": talk("good"), "rejected": talk("bad")}, ASKED),
        ({"prompt": talk(""), "chosen": talk("good"), "rejected": talk("bad")}, ASKED),
        ({"prompt": talk(""), "chosen": " good", "rejected": " bad\n"}, ASKED),
        ({"prompt": talk("").strip(), "chosen": " good", "rejected": "bad"}, ASKED),
        ({"prompt": "\n\nHuman: q", "chosen": "good", "rejected": "bad"}, ASKED),
        ({"prompt": talk("a\n\nHuman: more\n\nAssistant:"), "responses": [" good", " bad"]}, LONGER),
    ],
)
def test_pairs_are_read_as_they_were_meant(chat, write, row, messages):
    path = write("a.jsonl", [row])
    data = load(chat, path)
    (pair,) = data.train
    assert (pair.prompt.messages, pair.chosen, pair.rejected) == (messages, "good", "bad")
    assert data.counts["messages_in_text"] + data.counts["dialogues_in_text"] == 1
    (note,) = data.notes
    assert note.startswith("1 rows hold ") and note.endswith(f"read as messages, the first: {path}, row 1")


@pytest.mark.parametrize("more", [{"completion": "x"}, {"completion": "x", "label": 1}, {}])
def test_a_dialogue_is_a_prompt_of_every_shape(chat, write, more):
    (prompt,) = load(chat, write("a.jsonl", [{"prompt": talk("")} | more])).trained.prompts
    assert prompt.messages == ASKED and prompt.conversation


@pytest.mark.parametrize(
    ("cells", "conversation"),
    [
        ({"prompt": "q"}, False),
        ({"prompt": list(ASKED)}, True),
        ({"prompt": json.dumps(LONGER)}, True),  # whose earlier turns a function of TRL's would miss
    ],
)
def test_functions_get_turns_of_prompts_that_are_turns(chat, write, cells, conversation):
    (prompt,) = load(chat, write("a.jsonl", [cells])).trained.prompts
    assert prompt.conversation is conversation


def test_a_text_by_a_template_is_one_message(chat, write):
    (prompt,) = load(chat, write("a.jsonl", [{"x": "q"}]), prompt="{x}").trained.prompts
    assert not prompt.conversation


@pytest.mark.parametrize(
    "text",
    ["Human: q", "I met a Human: q\n\nAssistant: a", "Human: q\n\nAssistant: a\n\nWho is right?"],
)
def test_a_text_that_speaks_of_turns_is_text(chat, write, text):
    data = load(chat, write("a.jsonl", [{"prompt": text, "chosen": " a", "rejected": "b"}]))
    assert data.train[0].prompt.text == text and data.train[0].chosen == " a"
    assert data.counts["dialogues_in_text"] == 0


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "q", "responses": [as_json("good"), as_json("bad")[:-3]]}, "column responses: .*messages as JSON"),
        ({"prompt": talk("well,"), "chosen": "a", "rejected": "b"}, "column prompt: .*ends with a user's message"),
        ({"prompt": "other", "chosen": talk("a"), "rejected": talk("b")}, "column prompt: .*the turn before"),
        ({"responses": [talk("a"), "b"]}, "column responses: given 'b'; allowed: a prompt column"),
    ],
)
def test_what_cannot_be_read_is_refused_by_row(chat, write, row, told):
    first = {"responses": [talk("good"), talk("bad")]} if "prompt" not in row else row | {
        "prompt": "q", **({"responses": ["a", "b"]} if "responses" in row else {"chosen": "a", "rejected": "b"})
    }  # fmt: skip
    with pytest.raises(InputError, match=rf"row 2, {told}") as caught:
        load(chat, write("a.jsonl", [first, row]))
    assert "\n" not in str(caught.value)
