"""The cache gives what reading anew gives, for every shape and kind of file; nothing else is taken for it."""

from __future__ import annotations

import datetime
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from align.activity import Activity, Work
from align.config import BadRows, Caching, DataConfig
from align.config.mixture import MixtureSource
from align.data.cache import LARGE, is_kept
from align.data.preferences import load_preferences
from align.data.prepared import Preferences
from align.errors import InputError
from align.store import home
from tests.data.test_preferences import assistant, user

TALK = [user("hi"), assistant("yes"), user("and?"), assistant("no")]
CALL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
SHAPES: dict[str, list[dict[str, Any]]] = {
    "preference": [{"prompt": f"p{i % 7}", "chosen": "a" * i, "rejected": "b", "n": i} for i in range(1, 20)],
    "ranked": [{"prompt": f"p{i}", "responses": ["a", "bb", "c" * i], "scores": [1, i, 2]} for i in range(1, 9)],
    "unpaired": [{"prompt": f"p{i % 4}", "completion": f"c{i}", "label": i % 3 == 0} for i in range(12)],
    "demonstration": [{"messages": [user(f"p{i}"), assistant("a"), *TALK[2:]]} for i in range(8)],
    "prompt only": [{"prompt": f"p{i}", "limit": i} for i in range(9)],
    "tools": [{"prompt": [user(f"p{i}")], "chosen": "a", "rejected": "b", "tools": [CALL]} for i in range(4)],
    "any text": [{"prompt": f"{i} \x00 ✋🏽\r\n", "chosen": "<|im_end|>", "rejected": "a\u2028b"} for i in range(4)],
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    return home()


def load(chat, path: str, cache: Caching = Caching.always, said: list[str] | None = None, **settings) -> Preferences:
    limits = {"held_out_fraction": 0.25, "max_prompt_tokens": 512, "max_response_tokens": 12}
    activity = Activity(None if said is None else lambda work: said.append(work.what))
    return load_preferences(DataConfig(path=path, cache=cache, **(limits | settings)), chat, activity)


def content(data: Preferences) -> dict[str, Any]:
    sides = {"trained": data.trained, "measured": data.measured}
    pairs = {name: [pair.loaded() for pair in own.pairs] for name, own in sides.items()}
    given = {name: [*own.demonstrations, *own.labelled] for name, own in sides.items()}
    return {
        "pairs": [[(p.prompt.loaded(), p.chosen, p.rejected, p.chosen_ids) for p in own] for own in pairs.values()],
        "given": [[(c.prompt.loaded(), c.text, c.ids, c.label) for c in own] for own in given.values()],
        "prompts": [[p.loaded() for p in own.prompts] for own in sides.values()],
        "reward": [[(p.prompt.id, p.chosen) for p in own] for own in (data.reward_train, data.reward_held_out)],
        "others": (data.counts, data.notes, data.shape, data.rows, data.sources),
        "dropped": {name: [(one.where, one.row) for one in own] for name, own in data.dropped.items()},
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cache_holds_what_was_read(chat, write, place, shape):
    path = write("a.jsonl", SHAPES[shape])
    fresh, said = load(chat, path, Caching.never), []
    made, found = load(chat, path), load(chat, path, said=said)
    assert fresh.cached is None and made.cached == found.cached and place in found.cached.parents
    assert content(fresh) == content(made) == content(found)
    assert any(content(fresh)["prompts"]) and "rows tokenised" not in said
    side = found.trained
    for one in (*side.prompts, *side.pairs):
        assert one.fingerprint == one.loaded().fingerprint
    assert all(prompt.row_fingerprint == prompt.loaded().row_fingerprint for prompt in side.prompts)


def test_a_mixture_with_repeats_and_filters(chat, write):
    big = MixtureSource(path=write("big.jsonl", SHAPES["preference"]), weight=1.0)
    rows = [{"prompt": prompt, "chosen": "x", "rejected": "y", "n": 3} for prompt in "qrst"]
    small = MixtureSource(path=write("small.jsonl", rows), repeat=3, weight=1.0)
    settings = {"mixture": {"big": big, "small": small}, "train_where": {"n": [3, 9]}, "held_out_fraction": 0.1}
    fresh, _, found = (load(chat, None, cache, **settings) for cache in (Caching.never, *[Caching.always] * 2))
    assert content(fresh) == content(found) and found.sources["small"]["repeated"] > 0


def test_rows_of_a_table_keep_their_types(chat, tmp_path):
    day, file = datetime.date(2026, 11, 30), tmp_path / "a.parquet"
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "day": day, "picture": b"\x00\xff"} for i in range(4)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    load(chat, str(file))
    assert {p.prompt.row["day"] for p in load(chat, str(file)).train} == {day}
    assert {p.prompt.row["picture"] for p in load(chat, str(file)).train} == {b"\x00\xff"}


def test_a_dictionary_of_every_batch_is_its_own(chat, tmp_path):
    file = tmp_path / "a.parquet"
    kinds = pyarrow.chunked_array([pyarrow.array([name] * 3).dictionary_encode() for name in "xyz"])
    texts = {"prompt": [f"p{i}" for i in range(9)], "chosen": ["a"] * 9, "rejected": ["b"] * 9}
    pyarrow.parquet.write_table(pyarrow.table(texts | {"kind": kinds}), file, row_group_size=3)
    load(chat, str(file), held_out_fraction=0.0)
    assert [p.prompt.row["kind"] for p in load(chat, str(file), held_out_fraction=0.0).train] == list("xxxyyyzzz")


def test_other_content_and_other_limits_are_read_anew(chat, write, place):
    path = write("a.jsonl", SHAPES["preference"])
    first, shorter = load(chat, path), load(chat, path, max_response_tokens=3)
    assert max(len(p.chosen_ids) for p in shorter.train) == 3 < max(len(p.chosen_ids) for p in first.train)
    assert len(list((place / "rows").iterdir())) < len(list((place / "tokens").iterdir()))  # the rows are read once
    changed = [row | {"rejected": "c"} for row in SHAPES["preference"]]
    assert Path(path).stat().st_size == Path(write("a.jsonl", changed)).stat().st_size
    assert {p.rejected for p in load(chat, path).train} == {"c"}


def damage(file: Path, how: str) -> None:
    held = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(held[:-9])
    elif how == "another":
        file.write_bytes(b"[]")
    else:  # of the same size
        middle = len(held) // 2
        file.write_bytes(held[:middle] + bytes([held[middle] ^ 1]) + held[middle + 1 :])


@pytest.mark.parametrize("how", ["cut", "gone", "flipped", "another"])
@pytest.mark.parametrize("name", ["rows/rows-1.arrow", "tokens/completions.arrow", "rows/facts.json",
                                  "tokens/facts.json", "tokens/places.safetensors"])  # fmt: skip
def test_a_damaged_folder_is_made_anew(chat, write, place, name, how):
    path = write("a.jsonl", SHAPES["preference"])
    whole = content(load(chat, path))
    kind, _, file = name.partition("/")
    (folder,) = [folder for folder in (place / kind).iterdir() if folder.is_dir()]
    damage(folder / file, how)
    assert content(load(chat, path)) == whole


def test_a_file_that_changes_while_it_is_read_is_refused_and_not_kept(chat, write, place):
    path = write("a.jsonl", [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(3000)])
    grown = []

    def grow(work: Work) -> None:
        if work.what == "reading the data" and work.detail and not grown:
            grown.append(work)
            with open(path, "a") as file:
                file.write('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')

    config = DataConfig(path=path, cache=Caching.always, max_prompt_tokens=99, max_response_tokens=99)
    with pytest.raises(InputError, match="do not change while they are read"):
        load_preferences(config, chat, Activity(grow))
    assert grown and not [folder for folder in (place / "rows").iterdir() if folder.is_dir()]


def test_a_home_where_nothing_can_be_written(chat, write, monkeypatch):
    path = write("a.jsonl", SHAPES["preference"])
    monkeypatch.setenv("ALIGN_HOME", "/proc/nope")
    with pytest.raises(InputError, match=r"^data\.cache: given 'always'; allowed: an ALIGN_HOME .*/proc/nope"):
        load(chat, path)
    with open(path, "ab") as file:
        file.write(b"\n" * LARGE)
    data = load(chat, path, Caching.auto)
    assert data.cached is None and any("no cache of rows and tokens" in note for note in data.notes)
    assert content(data)["pairs"] == content(load(chat, path, Caching.never))["pairs"]


def test_what_cannot_be_read_leaves_nothing(chat, write, place):
    bad = [*SHAPES["preference"], {"prompt": 3, "chosen": "a", "rejected": "b", "n": 1}]
    path = write("a.jsonl", bad)
    with pytest.raises(InputError, match="row 20"):
        load(chat, path)
    assert not [folder for folder in (place / "tokens").iterdir() if folder.is_dir()]
    assert load(chat, path, bad_rows=BadRows.drop).counts["malformed_dropped"] == 1


def test_large_files_are_kept_without_being_asked(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b" " * (LARGE // 2))
    assert not is_kept(Caching.auto, [file]) and is_kept(Caching.auto, [file, file])
    assert is_kept(Caching.always, []) and not is_kept(Caching.never, [file, file])


def test_rows_are_not_held_in_memory(chat, tmp_path):
    file, rows, size = tmp_path / "a.jsonl", 1500, 20_000
    with open(file, "w") as out:
        for i in range(rows):
            out.write(json.dumps({"prompt": f"p{i}", "chosen": "a", "rejected": "b", "unread": "x" * size}) + "\n")
    tracemalloc.start()
    try:
        data = load(chat, str(file))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data.train) == 1125 and peak < rows * size / 2
