"""The build script in its tiny setting: the same seed gives the same files, and they are what the package expects."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from transformers import AutoTokenizer

from align.evaluation.prompts_file import load_prompts
from align.worlds import get
from align.worlds.pocket import split

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("build_pocket")


@pytest.fixture(scope="module")
def built(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("built")
    torch.set_num_threads(1)
    script.build(out, script.TINY, 0)
    return out


def test_the_same_seed_gives_the_same_files(script: Any, built: Path, tmp_path: Path) -> None:
    script.build(tmp_path, script.TINY, 0)
    first, second = script.hashes(built), script.hashes(tmp_path)
    assert first == second and "model/model.safetensors" in first and "held_out.jsonl" in first


def test_another_seed_gives_other_weights(script: Any, built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built / "model")
    one, two = (script.train_start_model(tokenizer, script.replace(script.TINY.model, tokens=600), s) for s in (0, 1))
    assert not torch.equal(one.state_dict()["model.norm.weight"], two.state_dict()["model.norm.weight"])


def test_built_rows_carry_all_that_gold_needs(built: Path) -> None:
    sides = {"train.parquet": {"train"}, "evaluation.parquet": {"train"}, "held_out.jsonl": {"tune", "report"}}
    prompts: dict[str, set[str]] = {}
    for name, allowed in sides.items():
        rows = load_dataset(Path(name).suffix.strip(".").replace("jsonl", "json"), data_files=str(built / name))[
            "train"
        ]
        assert len(rows)
        for row in rows:
            assert row["split"] == split(row["prompt"]) and row["split"] in allowed
            assert row["chosen"] != row["rejected"] and 0 < row["label_probability"] < 1
            for side in ("chosen", "rejected"):
                assert get("pocket").gold(row, row[side], True).total == row[f"gold_{side}"]
        prompts[name] = {row["prompt"] for row in rows}
        assert len(prompts[name]) == len(rows)
    assert sum(map(len, prompts.values())) == len(set().union(*prompts.values()))  # no prompt in two files
    probed = load_prompts(str(built / "prompts.txt"))
    assert probed and all(p.text in prompts["held_out.jsonl"] and split(p.text) == "report" for p in probed)
