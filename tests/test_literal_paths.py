"""Paths on the command line are what they are, without a second layer of quotes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.cli.compose import composed
from align.cli.paths import literal_paths

NAMES = ["lr=1e-5", "a b", "a,b", "v(2)", "x[1]", "{y}", "données", "日本", "it's", 'a"b', "a\\b", "a\\'b", "50%", "#1",
         "$home", "a;b", "x|y", "a*", "null ", "[a, b]", "~", "a\\"]  # fmt: skip
ROWS = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(4)]


def written(folder: Path, name: str) -> Path:
    file = folder / name / "rows.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_literal(tmp_path, monkeypatch, name):
    file = written(tmp_path, name)
    words = ["method=sft", "data=jsonl"]
    assert composed([*words, f"data.path={file}"]).data.path == str(file)
    monkeypatch.chdir(file.parent.parent)
    monkeypatch.setenv("HOME", str(tmp_path))
    own = f"./{name}/rows.jsonl"
    assert composed([*words, f"data.path={own}"]).data.path == own
    if name != "~":
        assert composed([*words, f"data.path=~/{name}/rows.jsonl"]).data.path == str(file)


def test_what_is_no_path_stays_what_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["seed=0,1", "callbacks=[progress]", "method.learning_rate=1e-5", "data.path='a b'", "-m", "x={a: 1}"]
    assert literal_paths(words) == words


def test_a_sweep_over_paths(tmp_path):
    one, two, both = (written(tmp_path, name) for name in ("a(1)", "b=2", "c,d"))
    assert literal_paths([f"data.path={one},{two}"]) == [f"data.path='{one}','{two}'"]
    assert literal_paths([f"data.path={both}"]) == [f"data.path='{both}'"]


def test_a_functions_file_and_a_folder_to_be_made(tmp_path):
    (tmp_path / "my rewards.py").touch()
    assert literal_paths([f"reward.source.path={tmp_path}/my rewards.py:score"])[0].endswith("my rewards.py:score'")
    assert literal_paths([f"hydra.run.dir={tmp_path}/run (1)"]) == [f"hydra.run.dir='{tmp_path}/run (1)'"]
    assert literal_paths(["hydra.run.dir=x/${now:%Y}"]) == ["hydra.run.dir=x/${now:%Y}"]


@pytest.mark.slow
def test_a_run_and_a_sweep(align, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    file, out = written(tmp_path, "lr=1e-5, données (2)"), tmp_path / "out [1]"
    small = ("method=sft", "method.batch_size=2", "max_steps=1", "evaluation.num_prompts=1", "evaluation.num_pairs=1",
             "evaluation.num_texts=1", "evaluation.num_probes=0", "data=jsonl", f"data.path={file}")  # fmt: skip
    code, _, err = align(*small, f"hydra.run.dir={out}/one run")
    assert code == 0, err
    assert json.loads((out / "one run" / "run.json").read_text())["status"] == "finished"
    code, _, err = align("-m", *small, "seed=0,1", f"hydra.sweep.dir={out}/sweep")
    assert code == 0, err
    assert len(list((out / "sweep").rglob("run.json"))) == 2
