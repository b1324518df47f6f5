"""Rows from files and folders, and one line about what is wrong with them."""

from __future__ import annotations

import json
import os
import socket

import datasets
import huggingface_hub
import pyarrow
import pytest
import torch

from align.config import ModelConfig
from align.data.sources import load_rows
from align.errors import InputError
from align.models.load import load_causal_lm, load_chat_tokenizer
from align.models.locate import fingerprint

ROWS = [{"prompt": f"p{i}", "chosen": "None", "rejected": "12", "limit": i} for i in range(5)]


def rows(path: str, **options) -> list[dict]:
    return list(load_rows(path, key="data.path", split_key="data.train_split", **options))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same_rows(write, name):
    """A CSV file holds text alone: its numbers are read where a number is used."""
    found = rows(write(name, ROWS))
    if name == "a.csv":
        assert [row["limit"] for row in found] == ["0", "1", "2", "3", "4"]
        found = [{**row, "limit": int(row["limit"])} for row in found]
    assert found == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_text_stays_the_text_that_stands_in_the_file(write, name):
    """Dates, leading zeros, exponents and words of YAML, also in columns that a reward reads."""
    texts = ["007", "1e5", "true", "null", "2024-01-01", "2024-01-01T10:00:00Z", "NaN", " x ", "1,5", '"']
    given = [{"prompt": f"p{i}", "answer": text} for i, text in enumerate(texts)]
    assert rows(write(name, given)) == given


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_row_ends_at_a_newline_alone(tmp_path, name):
    """Unicode has more characters that break lines, and they stand in texts; a CSV cell in quotes may hold newlines."""
    texts = ["a\u2028b", "a\x0cb", "a\x85b", "a\x1cb", "a\x0bb", "a\nb"]
    given = [{"prompt": text, "chosen": "y"} for text in texts]
    lines = [f"{text},y" if text != "a\nb" else '"a\nb",y' for text in texts]
    content = {
        "a.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in given),
        "a.json": json.dumps(given, ensure_ascii=False),
        "a.csv": "\n".join(["prompt,chosen", *lines]),
    }
    (tmp_path / name).write_text(content[name], encoding="utf-8", newline="")
    assert rows(str(tmp_path / name)) == given


def test_columns_differ_between_rows_and_files(write, tmp_path):
    """What nobody reads may hold anything; a row without a column of others holds None there."""
    write("folder/a.jsonl", [{"prompt": "p", "meta": 1}, {"prompt": "q", "meta": "one", "more": {"x": []}}])
    write("folder/b.jsonl", [{"prompt": "r", "meta": ["1"]}])
    found = rows(str(tmp_path / "folder"))
    assert [row["meta"] for row in found] == [1, "one", ["1"]]
    assert [row["more"] for row in found] == [None, {"x": []}, None]


@pytest.mark.parametrize(
    ("content", "told"),
    [("a,b\n1\n", "line 2 has 1 cells for 2"), ("a,a\n1,2\n", "different names"), ('a,b\n"1,2\n', "line 2")],
)
def test_csv_files_that_are_not_well_formed(write, content, told):
    with pytest.raises(InputError, match=rf"^data\.path.*csv.*{told}"):
        rows(write("a.csv", content))


def test_csv_cells_that_look_empty_or_numeric_stay_text(write):
    path = write("a.csv", "prompt,chosen,rejected\nNA,null,\n1,2.50,True\n")
    assert rows(path) == [
        {"prompt": "NA", "chosen": "null", "rejected": ""},
        {"prompt": "1", "chosen": "2.50", "rejected": "True"},
    ]


def test_nested_columns_keep_their_shape(write):
    """A row's `spec` must not gain the keys of other rows' specs."""
    given = [{"prompt": "p", "spec": {"a": 1}}, {"prompt": "q", "spec": {"b": ["x"]}}]
    assert rows(write("a.jsonl", given)) == given


def test_split_slices(write):
    path = write("a.jsonl", ROWS)
    assert rows(path, split="train[:2]") == ROWS[:2]
    assert rows(path, split="train[3:]") == ROWS[3:]
    assert rows(path, split="train[:40%]") == ROWS[:2]


def test_folder_has_the_splits_its_file_names_say(write, tmp_path):
    write("folder/train.jsonl", ROWS[:3])
    write("folder/test.jsonl", ROWS[3:])
    write("folder/README.md", "# not data")
    assert rows(str(tmp_path / "folder")) == ROWS[:3]
    assert rows(str(tmp_path / "folder"), split="test") == ROWS[3:]


def test_nothing_is_left_in_the_shared_cache(write, tmp_path):
    before = set(os.listdir(datasets.config.HF_DATASETS_CACHE)) if datasets.config.HF_DATASETS_CACHE.exists() else set()
    rows(write("a.jsonl", ROWS))
    after = set(os.listdir(datasets.config.HF_DATASETS_CACHE)) if datasets.config.HF_DATASETS_CACHE.exists() else set()
    assert before == after


def test_an_edited_file_is_read_again(write):
    rows(write("a.jsonl", ROWS))
    assert rows(write("a.jsonl", ROWS[:2])) == ROWS[:2]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", "", r"^data\.path.*not empty"),
        ("a.jsonl", "\n\n", r"^data\.path.*none"),
        ("a.csv", "prompt,chosen\n", r"^data\.path.*none"),
        ("a.json", "[]", r"^data\.path"),
        ("a.jsonl", '{"a": 1}\n{"a": 2}\n{"a": \n', r"/a\.jsonl, line 3"),
        ("a.jsonl", '{"a": 1}\n\n[2]\n', r"/a\.jsonl, line 3: .*one JSON object per line"),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', r"/a\.jsonl, line 2: .*key \\'a\\' twice.*each key once"),
        ("a.jsonl", '{"a": [{"b": 1, "b": 1}]}\n', r"/a\.jsonl, line 1: .*the key \\'b\\' twice"),
        ("a.json", ' [{"a": "]"},\n {"a": 1, "b": 2, "a": 3}, {}]', r"/a\.json, row 2: .*the key 'a' twice"),
        ("a.json", '[{"a": 1},\n{]', r"/a\.json, line 2"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"^data\.path.*csv.*line 3"),
        ("a.parquet", "nope", r"^data\.path.*parquet"),
        ("a.txt", "nope", r"^data\.path.*extension \.txt"),
        ("a.pkl", "nope", r"^data\.path.*extension \.pkl"),
    ],
)
def test_unreadable_files(write, name, content, told):
    with pytest.raises(InputError, match=told) as caught:
        rows(write(name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": DEEP}\n', r"/a\.jsonl, line 2: .*\(nested too deeply\)"),
        ("a.json", '[{"a": 1}, {"b": 1}, {"a": DEEP}]', r"/a\.json, row 3: given 'nested too deeply'"),
    ],
)
def test_a_depth_that_no_reader_takes_is_refused_by_row(write, name, content, told):
    with pytest.raises(InputError, match=told) as caught:
        rows(write(name, content.replace("DEEP", "[" * 100_000 + "]" * 100_000)))
    assert len(str(caught.value)) < 300


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(InputError, match=r"^data\.path.*UTF-8"):
        rows(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    "path", ["/no/such.jsonl", "missing.csv", "./folder", "a/b/c", "own/folder/", "", "align://pocket/none.jsonl"]
)
def test_paths_that_name_nothing(path):
    with pytest.raises(InputError, match=r"^data\.path") as caught:
        rows(path)
    assert "\n" not in str(caught.value)


def test_folder_without_data(tmp_path):
    (tmp_path / "data.pkl").touch()
    with pytest.raises(InputError, match=r"^data\.path.*no such file"):
        rows(str(tmp_path))


@pytest.mark.parametrize("split", ["test", "train[:x]", "train[9:]"])
def test_splits_that_do_not_exist(write, split):
    with pytest.raises(InputError, match=r"^data\.train_split") as caught:
        rows(write("a.jsonl", ROWS), split=split)
    assert "\n" not in str(caught.value)


def test_unknown_subset(write, tmp_path):
    write("folder/train.jsonl", ROWS)
    with pytest.raises(InputError, match=r"^data\.subset: given 'nope'"):
        rows(str(tmp_path / "folder"), subset="nope")


@pytest.fixture
def offline(monkeypatch):
    """What HF_HUB_OFFLINE=1 sets, which the libraries read when they are imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "call",
    [
        lambda: load_chat_tokenizer(ModelConfig(path="nobody/nothing")),
        lambda: load_causal_lm(ModelConfig(path="nobody/nothing"), dtype=torch.float32, device=torch.device("cpu")),
        lambda: fingerprint("nobody/nothing"),
        lambda: rows("nobody/nothing"),
    ],
)
def test_hub_ids_that_are_neither_cached_nor_reachable(offline, call):
    with pytest.raises(InputError, match=r"^(model|data)\.path: given 'nobody/nothing'.*not in the cache") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_ids_that_the_hub_cannot_have(offline):
    with pytest.raises(InputError, match=r"^model\.path.*neither an existing folder nor a Hub id"):
        load_chat_tokenizer(ModelConfig(path="not a valid id"))


def test_local_files_reach_for_no_network(write, monkeypatch):
    """`datasets` would count the download of every file that it loads."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    assert rows(write("a.jsonl", ROWS)) == ROWS
    assert asked == []


def test_newlines_inside_the_cells_of_a_csv_file_stay(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'prompt,chosen\r\n"l1\r\nl2\rl3\n",a\r\nq,b\r\n')
    assert rows(str(tmp_path / "a.csv")) == [
        {"prompt": "l1\r\nl2\rl3\n", "chosen": "a"},
        {"prompt": "q", "chosen": "b"},
    ]


def test_a_number_of_too_many_digits_names_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ' + "9" * 5000 + "}\n")
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: .*a number of too many digits"):
        rows(str(tmp_path / "a.jsonl"))


def test_an_arrow_stream_without_its_end_is_refused(tmp_path):
    table = pyarrow.table({"prompt": ["a", "b"]})
    for name, blocks in (("whole", 2), ("cut", 1)):
        file = str(tmp_path / f"{name}.arrow")
        with pyarrow.OSFile(file, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
            for _ in range(blocks):
                out.write_table(table)
    whole, one = ((tmp_path / f"{name}.arrow").read_bytes() for name in ("whole", "cut"))
    assert whole.startswith(one[:-8]) and len(rows(str(tmp_path / "whole.arrow"))) == 4
    (tmp_path / "cut.arrow").write_bytes(whole[: len(one) - 8])
    with pytest.raises(InputError, match="cut off"):
        rows(str(tmp_path / "cut.arrow"))
