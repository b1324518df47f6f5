"""Every kind of data file gives the same rows: packed, sharded, matched by a pattern, saved by `datasets`."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from align.cli.paths import literal_paths
from align.config import DataConfig, MixtureSource
from align.config.data_files import format_of, unpacking
from align.data.mixture import lowest
from align.data.preferences import load_preferences
from align.data.sources import load_rows
from align.errors import InputError
from align.run.stages import data_lines
from tests import tiny

ROWS = [{"prompt": f"p{i}", "chosen": "007", "rejected": "2024-01-01"} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "prompt,chosen,rejected\n" + "".join(f"{','.join(row.values())}\n" for row in ROWS)


def rows(path: str | Path, **options) -> list[dict]:
    return list(load_rows(str(path), key="data.path", split_key="data.train_split", **options))


def refused(path: str | Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        rows(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shard(folder: Path, name: str, place: slice) -> None:
    content = "".join(json.dumps(row) + "\n" for row in ROWS[place]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)


def arrow(path: Path, new=pyarrow.ipc.new_stream) -> None:
    write_arrow(path, pyarrow.Table.from_pylist(ROWS), new)


def write_arrow(path: Path, table: pyarrow.Table, new=pyarrow.ipc.new_stream) -> None:
    with pyarrow.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.JSONL", LINES),
        ("a.ndjson", LINES),
        ("a.Jsonl.GZ", LINES),
        ("a.json.gz", json.dumps(ROWS)),
        ("a.JSON", json.dumps(ROWS)),
        ("a.csv.gz", CSV),
        ("a.CSV", CSV),
    ],
)
def test_text_files(tmp_path, name, content):
    packed = gzip.compress(content.encode()) if name.lower().endswith(".gz") else content.encode()
    (tmp_path / name).write_bytes(packed)
    assert rows(tmp_path / name) == ROWS
    assert rows(tmp_path) == ROWS
    assert rows(tmp_path / name, split="train[1:3]") == ROWS[1:3]


@pytest.mark.parametrize("new", [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
def test_arrow_files_of_both_kinds(tmp_path, new):
    arrow(tmp_path / "a.arrow", new)
    assert rows(tmp_path / "a.arrow") == rows(tmp_path) == ROWS
    assert rows(tmp_path / "a.arrow", split="train[3:]") == ROWS[3:]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_columns_of_one_name_are_refused(tmp_path, name):
    table = pyarrow.table([["p"], ["x"], ["q"]], names=["prompt", "chosen", "prompt"])
    if name == "a.parquet":
        pyarrow.parquet.write_table(table, tmp_path / name)
    else:
        write_arrow(tmp_path / name, table)
    told = refused(tmp_path / name)
    assert name in told and told.endswith("different names, not prompt, chosen, prompt")


def test_what_is_packed_shows_in_the_content_whatever_the_name_says(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(LINES.encode()))
    (tmp_path / "b.jsonl.gz").write_text(LINES)
    assert rows(tmp_path / "a.jsonl") == rows(tmp_path / "b.jsonl.gz") == ROWS


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(LINES.encode())[:-9], "a gzip file that is whole"),
        (gzip.compress(LINES.encode()) + b"more", "a gzip file that is whole"),
        (b"\x1f\x8b no gzip", "a gzip file that is whole"),
        (b"\xff" + gzip.compress(LINES.encode()), "gzip, or UTF-8 text"),
    ],
    ids=["cut off", "more behind it", "a head alone", "more before it"],  # its bytes hold the time
)
def test_broken_gzip(tmp_path, content, told):
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    assert refused(tmp_path / "a.jsonl.gz").startswith(f"data.path: given '{tmp_path}/a.jsonl.gz'; allowed: {told}")


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("a.jsonl.zst", "zstd -d"),
        ("a.csv.xz", "unxz"),
        ("a.zip", "unzip"),
        ("a.JSON.BZ2", "bunzip2"),
        ("a.tar.gz", "tar -xzf"),
        ("a.parquet.gz", "gunzip"),
    ],
)
def test_files_packed_otherwise_name_what_unpacks_them(tmp_path, name, program):
    (tmp_path / name).write_bytes(b"x")
    assert f"{program} {name}" in refused(tmp_path / name)
    assert "no such file" in refused(tmp_path / "other" / name)


def test_a_packed_file_in_a_folder_is_not_left_out(tmp_path):
    shard(tmp_path, "a.jsonl", slice(0, 2))
    (tmp_path / "b.jsonl.zst").write_bytes(b"x")
    assert "zstd -d b.jsonl.zst" in refused(tmp_path)


def test_names_of_formats():
    assert [format_of(name) for name in ("a.Parquet", "a.csv.gz", "a.arrow.gz", "a.gz", "a", "a.txt")] == [
        "parquet", "csv", None, None, None, None]  # fmt: skip
    assert unpacking("a.csv.gz") is unpacking("a.csv") is unpacking("a.txt") is None


def test_folders_of_shards(tmp_path):
    shard(tmp_path / "packed", "train-00000-of-00002.jsonl.gz", slice(0, 2))
    shard(tmp_path / "packed", "train-00001-of-00002.jsonl.gz", slice(2, 4))
    shard(tmp_path / "packed", "test-00000-of-00001.jsonl.gz", slice(4, 5))
    assert rows(tmp_path / "packed") == ROWS[:4]
    assert rows(tmp_path / "packed", split="test") == ROWS[4:]
    assert rows(tmp_path / "packed", split="train[1:3]") == ROWS[1:3]  # across two files
    for number, place in enumerate([slice(0, 3), slice(3, 5)]):
        (tmp_path / "data").mkdir(exist_ok=True)
        Dataset.from_list(ROWS[place]).to_parquet(tmp_path / "data" / f"train-0000{number}-of-00002.parquet")
    assert rows(tmp_path / "data") == ROWS
    assert rows(tmp_path / "data", split="train[2:4]") == ROWS[2:4]


def test_a_folder_reads_every_format_and_every_case_in_it(tmp_path):
    """The rules of `datasets` alone would read one format and leave the others out."""
    shard(tmp_path, "a.JSONL", slice(0, 2))
    shard(tmp_path, "b.jsonl.gz", slice(2, 3))
    (tmp_path / "c.csv").write_text("prompt,more\nq,x\n")
    found = rows(tmp_path)
    assert found[:3] == [row | {"more": None} for row in ROWS[:3]]
    assert found[3] == {"prompt": "q", "chosen": None, "rejected": None, "more": "x"}


def test_a_file_that_names_no_split_beside_files_that_do(tmp_path):
    for name in ("train.jsonl", "test.jsonl", "other.jsonl"):
        shard(tmp_path, name, slice(0, 2))
    assert "(other.jsonl: none of train, test)" in refused(tmp_path)
    assert rows(tmp_path / "*t*.jsonl") == ROWS[:2] * 3


def test_a_folders_readme_says_which_files_are_which_split(tmp_path):
    for name in ("one.jsonl", "two.jsonl", "else.jsonl"):
        shard(tmp_path, name, slice(0, 2))
    files = "".join(
        f"  - split: {split}\n    path: {name}\n" for split, name in (("train", "one.jsonl"), ("dev", "two.jsonl"))
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    assert rows(tmp_path) == rows(tmp_path, split="dev") == ROWS[:2]


def test_what_datasets_saved(tmp_path):
    whole = Dataset.from_list(ROWS)
    whole.with_format("numpy").save_to_disk(tmp_path / "one")  # its rows are Python's all the same
    DatasetDict(train=whole.select(range(3)), dev=whole.select([3, 4])).save_to_disk(tmp_path / "two")
    assert rows(tmp_path / "one") == ROWS
    assert rows(tmp_path / "one", split="train[:2]") == ROWS[:2]
    assert rows(tmp_path / "two") == ROWS[:3]
    assert rows(tmp_path / "two", split="dev") == rows(tmp_path / "two" / "dev") == ROWS[3:]
    assert refused(tmp_path / "two", split="test").startswith("data.train_split: given 'test'")


@pytest.mark.parametrize("saved", [True, False])
def test_splits_that_are_not_read_are_named(tmp_path, chat, saved):
    names = ("train", "validation", "test")
    if saved:
        DatasetDict({name: Dataset.from_list(ROWS) for name in names}).save_to_disk(tmp_path)
    else:
        for name in names:
            shard(tmp_path, f"{name}.jsonl", slice(0, 5))

    def notes(**settings) -> tuple[str, ...]:
        config = DataConfig(path=str(tmp_path), max_prompt_tokens=99, max_response_tokens=99, **settings)
        return load_preferences(config, chat).notes

    begin, end = f"splits of {tmp_path} that are not read: ", "(data.held_out_split={} holds one out)"
    assert notes() == (f"{begin}validation, test {end.format('validation')}",)
    assert notes(train_split="train[:3]+validation") == (f"{begin}test {end.format('test')}",)
    assert notes(train_split="validation[:2]", held_out_split="train[4:]+test") == ()


def test_saved_without_rows(tmp_path):
    empty = Dataset.from_list(ROWS).select([])
    empty.save_to_disk(tmp_path / "plain")
    DatasetDict({"train": empty, "test": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    assert refused(tmp_path / "plain").endswith("data with rows (split train has none)")
    assert "data with rows (there are 5 in all)" in refused(tmp_path / "splits")
    assert rows(tmp_path / "splits", split="test") == ROWS


def test_cells_are_what_is_stored(tmp_path):
    """An image that nobody looks at needs no library to decode it; mixed values that `datasets` keeps as JSON do."""
    mixed = [[{"b": 0}, {"c": "x"}], []]
    saved = Dataset.from_dict({"prompt": ["p", "q"], "meta": mixed}, on_mixed_types="use_json")
    saved.to_parquet(tmp_path / "mixed.parquet")
    assert [row["meta"] for row in rows(tmp_path / "mixed.parquet")] == mixed
    table = pyarrow.table({"prompt": ["p"], "kind": pyarrow.array(["a"]).dictionary_encode()})
    feature = {"info": {"features": {"prompt": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}}}
    image = pyarrow.array([{"bytes": b"no image", "path": None}])
    table = table.append_column("image", image).replace_schema_metadata({"huggingface": json.dumps(feature)})
    pyarrow.parquet.write_table(table, tmp_path / "image.parquet")
    (found,) = rows(tmp_path / "image.parquet")
    assert found == {"prompt": "p", "kind": "a", "image": {"bytes": b"no image", "path": None}}


def test_a_folders_name_is_no_column(tmp_path):
    (tmp_path / "lr=1").mkdir()
    Dataset.from_list(ROWS).to_parquet(tmp_path / "lr=1" / "a.parquet")
    assert rows(tmp_path / "lr=1" / "a.parquet") == rows(tmp_path) == ROWS


def test_several_files_by_a_pattern(tmp_path):
    shard(tmp_path / "x[1]", "b.jsonl", slice(2, 4))
    shard(tmp_path / "x[1]", "a.jsonl", slice(0, 2))
    shard(tmp_path / "x[1]" / "deep", "c.jsonl.gz", slice(4, 5))
    assert rows(tmp_path / "x[1]" / "*.jsonl") == ROWS[:4]  # in the order of their names; the folder is literal
    assert rows(tmp_path / "x[1]" / "**" / "*.jsonl*") == ROWS
    assert rows(tmp_path / "x[1]" / "[b]*") == ROWS[2:4]
    assert "(this is a folder)" in refused(tmp_path / "x[1]" / "*")
    assert "nothing matches" in refused(tmp_path / "x[1]" / "*.csv")
    assert refused(tmp_path / "x[1]" / "*.jsonl", split="test").startswith("data.train_split: given 'test'")


def places(path: Path, **options) -> list[str]:
    found = load_rows(str(path), key="data.path", **options)
    return [found.place(at) for at in range(len(found))]


def test_a_row_names_its_file_and_its_number_there(tmp_path):
    (tmp_path / "s").mkdir()
    shard(tmp_path / "s", "a.jsonl", slice(0, 3))
    shard(tmp_path / "s", "b.jsonl.gz", slice(3, 5))
    a, b = (str(tmp_path / "s" / name) for name in ("a.jsonl", "b.jsonl.gz"))
    for path in (tmp_path / "s", tmp_path / "s" / "*.jsonl*"):
        assert places(path) == [f"{a}, row 1", f"{a}, row 2", f"{a}, row 3", f"{b}, row 1", f"{b}, row 2"]
        assert places(path, split="train[2:4]") == [f"{a}, row 3", f"{b}, row 1"]
    assert places(Path(a))[-1] == f"{a}, row 3"
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "plain")
    assert places(tmp_path / "plain")[4] == f"{tmp_path / 'plain'}, row 5"
    DatasetDict({name: Dataset.from_list(ROWS) for name in ("train", "test")}).save_to_disk(tmp_path / "two")
    assert places(tmp_path / "two", split="test")[1] == f"{tmp_path / 'two' / 'test'}, row 2"


def test_the_console_names_the_file_of_a_dropped_row_where_there_are_several(tmp_path, chat):
    for name, bad in (("a.jsonl", 1), ("b.jsonl", 0)):
        given = [{"prompt": f"{name} {i}", "chosen": "x", "rejected": "x" if i == bad else "y"} for i in range(3)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in given))
    for path, told in ((tmp_path, "[a.jsonl row 2, b.jsonl row 1]"), (tmp_path / "a.jsonl", "[row 2]")):
        data = DataConfig(path=str(path), max_prompt_tokens=99, max_response_tokens=99)
        config = replace(tiny.config(), data=data)
        (_, line) = data_lines(config, load_preferences(config.data, chat))
        assert f"identical_dropped {told.count('row')} {told}" in line


def test_what_a_mixture_takes_of_a_file_keeps_its_numbers_there(chat, write):
    given = [{"prompt": f"p{i}", "chosen": "a", "rejected": "a" if i == 7 else "b"} for i in range(10)]
    few = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(6)]
    paths = {"many": write("many.jsonl", given), "few": write("few.jsonl", few)}
    mixture = {name: MixtureSource(path=path, weight=1.0) for name, path in paths.items()}
    data = load_preferences(DataConfig(path=None, mixture=mixture, max_prompt_tokens=99, max_response_tokens=99), chat)
    assert 7 in lowest(given, 6)
    assert [row.where for row in data.dropped["identical_dropped"]] == [f"{paths['many']}, row 8"]


def test_a_file_of_that_name_wins_over_the_pattern(tmp_path):
    shard(tmp_path, "a*.jsonl", slice(0, 1))
    shard(tmp_path, "ab.jsonl", slice(1, 5))
    assert rows(tmp_path / "a*.jsonl") == ROWS[:1]


def test_patterns_on_the_command_line(tmp_path, monkeypatch):
    shard(tmp_path / "a (1)", "p.jsonl", slice(0, 1))
    monkeypatch.chdir(tmp_path)
    assert literal_paths(["data.path=a (1)/[p]*"]) == ["data.path='a (1)/[p]*'"]
    assert literal_paths(["data.path=a (1)/*,a (1)/p*"]) == ["data.path='a (1)/*','a (1)/p*'"]
    (tmp_path / "p").touch()
    assert literal_paths(["callbacks=[p]", "data.path=[x]"]) == ["callbacks=[p]", "data.path=[x]"]


def test_a_path_without_its_extension(tmp_path, monkeypatch):
    shard(tmp_path, "pairs.jsonl.gz", slice(0, 1))
    assert "there is " in refused(tmp_path / "pairs") and "pairs.jsonl.gz" in refused(tmp_path / "pairs")
