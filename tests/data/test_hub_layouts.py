"""The data sets that have an option of their own, as the Hub stores them, read by that option."""

from __future__ import annotations

import gzip
import io
import json

import pytest
from datasets import Dataset, Image
from hydra import compose, initialize_config_dir

from align.cli.groups import CONF
from align.config import DataConfig
from align.config.automatic import ModelFacts, settle
from align.config.io import build, register_schemas
from align.data.preferences import load_preferences
from align.data.sources import load_rows
from align.errors import InputError
from align.models.chat_tokenizer import make_chat_tokenizer
from tests.hub import TOKEN


def option(*words: str) -> DataConfig:
    """`data` as the command line composes it."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return settle(build(compose("config", list(words))), ModelFacts(world=True)).config.data


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    Dataset.from_list(rows).to_parquet(buffer)
    return buffer.getvalue()


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_orca_dpo(hub, chat):
    rows = [
        {"system": "" if i % 2 else "Be brief.", "question": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"}
        for i in range(20)
    ]
    hub.add("Intel/orca_dpo_pairs", {"README.md": b"# Orca", "orca_rlhf.jsonl": lines(rows)}, kind="datasets")
    data = load_preferences(option("data=orca_dpo"), chat)
    assert (data.counts["rows"], data.counts["held_out_prompts"]) == (20, 2)
    pairs = {pair.prompt.text: pair for pair in (*data.train, *data.held_out)}
    system = ({"role": "system", "content": "Be brief."},)
    assert pairs["q2"].prompt.messages == (*system, user("q2"))
    assert pairs["q3"].prompt.messages == (user("q3"),)
    assert (pairs["q3"].chosen, pairs["q3"].rejected) == ("good 3", "bad 3")
    assert list(pairs["q2"].prompt.input_ids) == chat.encode_prompt([*system, user("q2")])
    sliced = load_preferences(option("data=orca_dpo", "data.train_split='train[:5]'"), chat)
    assert {p.prompt.text for p in (*sliced.train, *sliced.held_out)} == {f"q{i}" for i in range(5)}
    with pytest.raises(InputError, match=r"^data\.system_column: given 'sytem'; allowed: .*system, question"):
        load_preferences(option("data=orca_dpo", "data.system_column=sytem"), chat)


def transcript(*turns: str) -> str:
    return "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {turn}" for i, turn in enumerate(turns))


def test_hh(hub, chat):
    def rows(tag: str, n: int) -> list[dict]:
        prompts = [("one", "two", f"{tag} {i}") for i in range(n)]
        return [{"chosen": transcript(*p, "good"), "rejected": transcript(*p, "bad")} for p in prompts]

    odd = [
        {"chosen": transcript("a", "b"), "rejected": transcript("c", "d")},  # two prompts
        {"chosen": transcript("a", "b", "c"), "rejected": transcript("a", "b", "d")},  # no answer at the end
        {"chosen": transcript("a", ""), "rejected": transcript("a", "b")},
    ]
    files = {
        "README.md": b"---\nlicense: mit\n---\n# HH",
        "harmless-base/train.jsonl.gz": gzip.compress(lines(rows("harmless", 6))),
        "harmless-base/test.jsonl.gz": gzip.compress(lines(rows("harmless test", 2))),
        "helpful-base/train.jsonl.gz": gzip.compress(lines(rows("helpful", 4) + odd)),
        "helpful-base/test.jsonl.gz": gzip.compress(lines(rows("helpful test", 2))),
        "red-team-attempts/red_team_attempts.jsonl.gz": gzip.compress(lines([{"transcript": "x"}])),
    }
    hub.add("Anthropic/hh-rlhf", files, kind="datasets")
    data = load_preferences(option("data=hh"), chat)
    lost = {name: data.counts[name] for name in ("diverging_dropped", "malformed_dropped", "empty_dropped")}
    assert lost == dict.fromkeys(lost, 1)
    assert (data.counts["rows"], len(data.train), len(data.held_out)) == (17, 10, 4)
    (pair,) = [pair for pair in data.train if pair.prompt.text == "helpful 1"]
    assert pair.prompt.messages == (user("one"), assistant("two"), user("helpful 1"))
    assert (pair.chosen, pair.rejected) == ("good", "bad")
    helpful = load_preferences(option("data=hh", "data.folder=helpful-base"), chat)
    assert {pair.prompt.text for pair in helpful.train} == {f"helpful {i}" for i in range(4)}
    assert {pair.prompt.text for pair in helpful.held_out} == {f"helpful test {i}" for i in range(2)}
    with pytest.raises(InputError, match=r"column chosen: .*by user.*assistant ends"):
        load_preferences(option("data=hh", "data.bad_rows=error"), chat)


CARD = """---
configs:
- config_name: default
  data_files:
{splits}---
"""


def test_ultrafeedback(hub, chat):
    def row(text: str) -> dict:
        sides = {"chosen": [user(text), assistant("good")], "rejected": [user(text), assistant("bad")]}
        return {"prompt": text, "prompt_id": "x", **sides, "messages": sides["chosen"], "score_chosen": 9.0}

    splits = {
        "train_prefs": [*(row(f"p{i}") for i in range(6)), row("")],
        "test_prefs": [row("t0"), row("t1"), row("p1")],
        "train_sft": [row("s")],
    }
    card = CARD.format(splits="".join(f"  - split: {s}\n    path: data/{s}-*\n" for s in splits))
    files = {f"data/{split}-00000-of-00001.parquet": parquet(rows) for split, rows in splits.items()}
    hub.add("HuggingFaceH4/ultrafeedback_binarized", {"README.md": card.encode(), **files}, kind="datasets")
    data = load_preferences(option("data=ultrafeedback"), chat)
    assert {p.prompt.text for p in data.train} == {f"p{i}" for i in range(6)}
    assert {p.prompt.text for p in data.held_out} == {"t0", "t1"}
    assert (data.counts["malformed_dropped"], data.counts["overlapping_dropped"]) == (1, 1)
    assert data.train[0].prompt.messages == (user("p0"),)
    assert (data.train[0].chosen, data.train[0].rejected) == ("good", "bad")
    cut = load_preferences(option("data=ultrafeedback", "data.max_response_tokens=4"), chat)
    assert cut.counts["responses_cut"] == 8  # every `good` loses its end token, no `bad` does


ROWS = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(4)]


def load(name: str, **settings) -> list[dict]:
    return list(load_rows(name, key="data.path", split_key="data.train_split", **settings))


def test_a_given_format_takes_texts_as_they_are(hub, chat, tmp_path):
    hub.add(
        "own/format",
        {"train.jsonl": lines([row | {"prompt": f"Q: {row['prompt']}\nA:"} for row in ROWS])},
        kind="datasets",
    )
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    tokenizer = chat.tokenizer.__class__.from_pretrained(chat.tokenizer.save_pretrained(tmp_path)[0].rsplit("/", 1)[0])
    plain = make_chat_tokenizer(tokenizer, chat_template_path=template)
    (pair, *_) = load_preferences(option("data=hub", "data.path=own/format"), plain).train
    assert plain.decode(pair.prompt.input_ids) == pair.prompt.text == pair.prompt.messages[0]["content"]
    assert pair.prompt.text.startswith("Q: p") and pair.prompt.text.endswith("\nA:")


def test_revisions_and_what_is_not_there(hub):
    old = hub.add("own/pairs", {"train.jsonl": lines(ROWS[:1])}, kind="datasets", revision="v1")
    hub.add("own/pairs", {"train.jsonl": lines(ROWS), "test.jsonl": lines(ROWS[:2])}, kind="datasets")
    assert load("own/pairs") == ROWS
    assert load("own/pairs", split="test") == ROWS[:2]
    assert load("own/pairs", split="train[1:3]") == ROWS[1:3]
    assert load("own/pairs", revision="v1") == load("own/pairs", revision=old) == ROWS[:1]
    for settings, told in (
        ({"revision": "v2"}, r"^data\.path: given 'own/pairs'.*no such revision"),
        ({"split": "dev"}, r"^data\.train_split: given 'dev'"),
        ({"subset": "none"}, r"^data\.subset: given 'none'"),
        ({"folder": "none"}, r"^data\.path: given 'own/pairs'"),
    ):
        with pytest.raises(InputError, match=told) as caught:
            load("own/pairs", **settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^data\.path: given 'own/nothing'.*the Hub has no such data set"):
        load("own/nothing")


def test_wrong_columns(hub, chat):
    hub.add("own/columns", {"train.jsonl": lines([{"question": "q", "answer": "a"}])}, kind="datasets")
    with pytest.raises(InputError, match=r"^data\.chosen_column: given 'chosen'; allowed: .*question, answer"):
        load_preferences(option("data=hub", "data.path=own/columns"), chat)


def test_gated_data_takes_a_token(hub, monkeypatch):
    hub.add("own/gated", {"train.jsonl": lines(ROWS)}, kind="datasets", gated=True)
    with pytest.raises(InputError, match=r"^data\.path: given 'own/gated'.*accept its terms.*HF_TOKEN") as caught:
        load("own/gated")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert load("own/gated") == ROWS


def test_private_and_missing_data_are_one_to_a_stranger(hub, monkeypatch):
    hub.add("own/private", {"train.jsonl": lines(ROWS)}, kind="datasets", private=True)
    for name in ("own/private", "own/missing"):
        with pytest.raises(InputError, match=rf"'{name}'.*none of this name.*private: check its name, HF_TOKEN"):
            load(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert load("own/private") == ROWS


def test_without_a_network_the_cache_serves_at_once(hub):
    hub.add("own/cached", {"a/train.jsonl": lines(ROWS[:1])}, kind="datasets", revision="v1")
    hub.add("own/cached", {"a/train.jsonl": lines(ROWS)}, kind="datasets")
    load("own/cached", revision="v1")
    load("own/cached", folder="a")
    load("own/cached")
    with hub.down():
        assert load("own/cached", split="train[:2]") == ROWS[:2]
        assert load("own/cached", revision="v1") == ROWS[:1]
        with pytest.raises(InputError, match=r"not in the cache"):
            load("own/cached", revision="v2")
        assert load("own/cached", folder="a") == ROWS
        with pytest.raises(InputError, match=r"'own/never'.*not in the cache, and the Hub cannot be reached"):
            load("own/never")


def test_text_stays_the_text_that_stands_in_the_file(hub):
    """Where `datasets` reads dates and numbers, and refuses a column of mixed values."""
    texts = ["2024-01-01", "007", "1e5", "NA", "true"]
    rows = [{"prompt": "2024-01-01", "answer": text} for text in texts]
    mixed = [*rows, {"prompt": "p", "answer": {"a": 1}}, {"prompt": "q", "more": [1, "x"]}]
    table = "prompt,answer\n" + "".join(f"{row['prompt']},{row['answer']}\n" for row in rows)
    hub.add("own/lines", {"train.jsonl": lines(mixed), "test.jsonl": lines(rows)}, kind="datasets")
    hub.add("own/tables", {"train-0.csv.gz": gzip.compress(table.encode()), "README.md": b"# x"}, kind="datasets")
    assert load("own/lines") == [{"prompt": None, "answer": None, "more": None} | row for row in mixed]
    assert load("own/lines", split="test[1:3]") == rows[1:3]
    assert load("own/tables") == rows
    with hub.down():
        assert load("own/tables", split="train[:2]") == rows[:2]
        assert load("own/lines", split="test") == rows


def test_a_split_that_was_not_read_is_not_in_the_cache(hub):
    hub.add("own/half", {"train.jsonl": lines(ROWS), "test.jsonl": lines(ROWS)}, kind="datasets")
    assert load("own/half") == ROWS
    with hub.down(), pytest.raises(InputError, match=r"'own/half'.*not in the cache, and the Hub cannot be reached"):
        load("own/half", split="test")


def test_options_of_a_readme_are_for_datasets(hub):
    card = "---\nconfigs:\n- config_name: default\n  sep: ';'\n  data_files: rows.csv\n---\n"
    hub.add("own/semicolons", {"README.md": card.encode(), "rows.csv": b"a;b\nx;y\n"}, kind="datasets")
    assert load("own/semicolons") == [{"a": "x", "b": "y"}]


def test_tables_of_a_repository_keep_an_image_as_it_is(hub, tmp_path):
    """No library decodes what nobody reads."""
    saved = Dataset.from_dict({"prompt": ["p"], "image": [{"bytes": b"no image", "path": None}]})
    saved.cast_column("image", Image(decode=True)).to_parquet(tmp_path / "a.parquet")
    hub.add("own/images", {"train.parquet": (tmp_path / "a.parquet").read_bytes()}, kind="datasets")
    assert load("own/images") == [{"prompt": "p", "image": {"bytes": b"no image", "path": None}}]


def test_local_files_have_no_revision(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"^data\.revision: given 'v1'; allowed: null, as .* is no Hub id"):
        option("data=jsonl", f"data.path={tmp_path}/a.jsonl", "data.revision=v1")
