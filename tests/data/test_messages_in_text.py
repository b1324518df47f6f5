"""Messages that a text cell holds as JSON are read as messages and counted, or refused: never trained on as text."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from align.config import BadRows, DataConfig
from align.data.preferences import load_preferences
from align.data.prepared import Preferences
from align.errors import InputError

LENGTHS = {"held_out_fraction": 0.0, "max_prompt_tokens": 512, "max_response_tokens": 512}
TURN = {"role": "user", "content": 'Say "a, b"'}


def load(chat, path: str, **settings) -> Preferences:
    return load_preferences(DataConfig(path=path, **(LENGTHS | settings)), chat)


def row(prompt: object, chosen: object = "good", rejected: object = "bad", **more) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.json"])
def test_every_format_reads_them_alike(chat, write, name):
    rows = [row(json.dumps([TURN]), note='[{"role": "user"}]'), row("plain", note="x")]
    path = write(name, rows)
    data = load(chat, path)
    assert [pair.prompt.messages for pair in data.train] == [(TURN,), ({"role": "user", "content": "plain"},)]
    assert data.train[0].prompt.row == rows[0]  # the row is what stands in the file, also in columns nobody reads
    assert data.counts["messages_in_text"] == 1
    assert data.notes == (f"1 rows hold messages as JSON in a text, read as messages, the first: {path}, row 1",)


def test_whole_conversations_need_no_prompt_column(chat, write):
    sides = {side: json.dumps([TURN, {"role": "assistant", "content": side}]) for side in ("chosen", "rejected")}
    (pair,) = load(chat, write("a.csv", [sides])).train
    assert (pair.prompt.messages, pair.chosen, pair.rejected) == ((TURN,), "chosen", "rejected")


def test_a_single_message(chat, write):
    (pair,) = load(chat, write("a.csv", [row("p", json.dumps({"role": "assistant", "content": "good"}))])).train
    assert pair.chosen == "good"


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (str([TURN]), "messages as JSON writes them"),  # as a data frame writes lists to CSV
        (json.dumps([TURN])[:-3], "messages as JSON writes them"),  # as a spreadsheet cuts cells
        (json.dumps([{"from": "human", "value": "x"}]), "role, content"),
        (json.dumps([{"role": "user"}]), "role, content"),
        ('[{"role": "user", "content": "a", "content": "b"}]', "the key 'content' twice"),
        pytest.param('[{"role": "user", "content": ' + "[" * 10_000, "nested too deeply", id="deep"),
    ],
)
def test_what_is_meant_as_messages_and_cannot_be_read(chat, write, cell, told):
    path = write("a.jsonl", [row("p"), row(cell)])
    with pytest.raises(InputError, match=rf"row 2, column prompt: .*{told}") as caught:
        load(chat, path)
    assert "\n" not in str(caught.value)
    assert load(chat, path, bad_rows=BadRows.drop).counts["malformed_dropped"] == 1


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b", "tools": "[" * 10_000}, "tools"),
        ({"prompt": "p", "responses": "[" * 10_000}, "responses"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": "[" * 10_000}, "scores"),
    ],
    ids=["tools", "responses", "scores"],
)
def test_other_lists_in_texts_that_are_too_deep_are_refused_by_row(chat, write, row, column):
    with pytest.raises(InputError, match=rf"row 1, column {column}: ") as caught:
        load(chat, write("a.jsonl", [row]))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    ['[{"a": 1}]', '{"role": "admin", "rights": []}', f"{json.dumps([TURN])} What is wrong here?", "[{role: x}]", "[]"],
)
def test_other_json_is_text(chat, write, text):
    data = load(chat, write("a.csv", [row(text)]))
    assert data.train[0].prompt.text == text
    assert data.counts["messages_in_text"] == 0


def test_a_template_takes_no_messages(chat, write):
    with pytest.raises(InputError, match=r"row 1, column prompt: .*these are messages"):
        load(chat, write("a.csv", [row(json.dumps([TURN]))]), prompt="Q: {prompt}")


IMAGE = {"type": "image", "image": "a.png"}
TEXT = {"type": "text", "text": "look"}


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([TEXT, IMAGE], "a part of type 'image'"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "a part of type 'image_url'"),
        ([{"type": "input_audio"}, TEXT], "a part of type 'input_audio'"),
        ([{"text": "untyped"}], {"text": "untyped"}),
        (["a string"], "a string"),
        ([{"type": "text", "text": None}], "a part of type 'text'"),
    ],
)
def test_parts_that_are_no_text_are_refused_by_row(chat, write, parts, told):
    path = write("a.json", [row("p"), row([{"role": "user", "content": parts}])])
    with pytest.raises(InputError) as caught:
        load(chat, path)
    assert caught.value.key == f"{path}, row 2, column prompt"
    assert caught.value.given == told
    assert "no images, audio or files" in caught.value.allowed


def test_parts_of_text_follow_each_other(chat, tmp_path):
    parts = [TEXT, {"type": "text", "text": " here"}]
    path = tmp_path / "a.parquet"
    mixed = [{"type": "text", "text": "other", "image": None}]  # Arrow gives every part every key
    Dataset.from_list([row([{"role": "user", "content": content}]) for content in (parts, mixed)]).to_parquet(path)
    assert [pair.prompt.text for pair in load(chat, str(path)).train] == ["look here", "other"]
