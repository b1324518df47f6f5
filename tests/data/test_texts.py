"""General texts from files of every kind, the project's own passages, and one line about what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from align.config import EvaluationConfig
from align.data.texts import Text, load_texts
from align.errors import InputError
from align.worlds import GENERAL

PLAIN = EvaluationConfig()
NAMED = EvaluationConfig(general_column="body", general_kind_column="topic")
KINDS = {"encyclopedic", "dialogue", "instructions", "code", "arithmetic", "french", "german"}


def test_blank_texts_are_left_out(write):
    path = write("a.jsonl", [{"text": "one"}, {"text": " "}, {"text": "two\nlines"}])
    assert load_texts(path, PLAIN) == [Text("one"), Text("two\nlines")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_columns_of_their_own(write, name):
    rows = [{"body": "12", "topic": "x", "text": "no"}, {"body": "two", "topic": "", "text": "no"}]
    assert load_texts(write(name, rows), NAMED) == [Text("12", "x"), Text("two")]


def test_a_slice(write):
    path = write("a.jsonl", [{"text": str(i), "kind": "n"} for i in range(9)])
    assert load_texts(path, replace(PLAIN, general_split="train[:2]")) == [Text("0", "n"), Text("1", "n")]


def test_paragraphs_of_plain_text(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text("one\nline after line\n\n\n  \ntwo: ü\n   \nthree\n", encoding="utf-8")
    assert load_texts(str(path), PLAIN) == [Text("one\nline after line"), Text("two: ü"), Text("three")]
    path.write_bytes(b"abc\n\n\xff\xfe")
    with pytest.raises(InputError, match=r"^evaluation\.general_text.*UTF-8 text \(byte 5"):
        load_texts(str(path), PLAIN)
    path.write_text("\n\n \n")
    with pytest.raises(InputError, match=r"^evaluation\.general_text.*at least one"):
        load_texts(str(path), PLAIN)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"txt": "one"}], r"^evaluation\.general_column: given 'text'; allowed: a column of .*a\.jsonl: txt$"),
        ([{"text": "one"}, {"text": 3}], r"row 2, column text: given 3"),
        ([{"text": "one"}, {"text": None}], r"row 2, column text: given None"),
        ([{"text": " "}], r"^evaluation\.general_text.*at least one"),
    ],
)
def test_bad_texts(write, rows, message):
    if "given 3" in message:
        rows = json.dumps([{"text": 3}, {"text": 3}])
        message = "row 1, column text: given 3"
    with pytest.raises(InputError, match=message):
        load_texts(write("a.jsonl" if isinstance(rows, list) else "a.json", rows), PLAIN)


def test_an_unknown_split(write):
    path = write("a.jsonl", [{"text": "one"}])
    with pytest.raises(InputError, match=r"^evaluation\.general_split: given 'test'"):
        load_texts(path, replace(PLAIN, general_split="test"))


def test_the_projects_own_passages():
    """Thirty of every kind, all different, and none long enough to be cut."""
    texts = load_texts(GENERAL, PLAIN)
    assert Counter(text.kind for text in texts) == dict.fromkeys(KINDS, 30)
    assert len({text.text for text in texts}) == len(texts)
    assert len({text.text[:25] for text in texts if text.kind not in ("code", "dialogue")}) == 150
    assert all(150 <= len(text.text) <= 900 for text in texts)


def test_python_passages_compile():
    python = [
        t.text
        for t in load_texts(GENERAL, PLAIN)
        if t.kind == "code" and t.text.startswith(("def", "class", "import", "from"))
    ]
    python = [text for text in python if not text.startswith("import java")]
    assert len(python) >= 8
    for text in python:
        compile(text, "passage", "exec")
