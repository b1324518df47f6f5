"""Studies on a real model: what is run again, what a point keeps, which words a table says. On the embedded model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.test_studies import module

real, rates, real_model = module("real"), module("rates"), module("real_model")
TINY = ("method=dpo", "method.batch_size=4", "max_steps=1", "device=cpu", "evaluation.num_prompts=4",
        "evaluation.num_pairs=8", "evaluation.num_texts=4", "evaluation.num_probes=0")  # fmt: skip


def arguments(tmp_path: Path, **given: object) -> argparse.Namespace:
    base = {"runs": tmp_path / "runs", "workers": 2, "only": [], "keep": False, "report_only": False}
    return argparse.Namespace(**base | given)


@pytest.mark.slow
def test_a_job_is_run_once_and_anew_when_its_words_change(tmp_path):
    """An error is an outcome with the line that said so; the weights of a run go, its record stays."""
    path, args = tmp_path / "points.jsonl", arguments(tmp_path)
    good = real.Job((("arm", "dpo"), ("seed", 0)), TINY)
    bad = real.Job((("arm", "dpo"), ("seed", 1)), (*TINY, "method.beta=-1"))
    first = real.run_jobs([good, bad], path, args)
    assert [p["exit"] for p in first] == [0, 2] and "method.beta" in first[1]["status"]
    assert first[0]["after"]["chosen"] > 1 and first[0]["steps"] == 1 and "kl_low" in first[0]["after"]
    assert (args.runs / "dpo-0" / "run.json").is_file() and not (args.runs / "dpo-0" / "model").exists()
    stamp = path.read_text()
    assert real.run_jobs([good, bad], path, args) == first and path.read_text() == stamp
    other = real.Job(bad.labels, TINY)
    assert real.run_jobs([other], path, arguments(tmp_path, report_only=True)) == []
    (made,) = real.run_jobs([other], path, args)
    assert made["exit"] == 0 and [p["name"] for p in real.read(path)] == ["dpo-0", "dpo-1"]
    assert real.run_jobs([good, bad], path, arguments(tmp_path, report_only=True)) == first[:1]


def test_questions_are_held_out_whole(tmp_path):
    rows = [{"prompt": f"q{n // 6}", "chosen": "a", "rejected": f"b{n}"} for n in range(1200)]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = rates.split(source, tmp_path / "parts")
    train, few, held = (real.read(parts[name]) for name in ("train", "few", "held_out"))
    assert len(train) + len(held) == 1200 and len(held) == 120 and len(few) == rates.FEW
    prompts = {name: {row["prompt"] for row in part} for name, part in (("t", train), ("f", few), ("h", held))}
    assert not prompts["t"] & prompts["h"] and prompts["f"] < prompts["t"]


def test_a_rate_stands_in_the_key_of_what_it_trains(tmp_path):
    pairs = {name: tmp_path / name for name in ("train", "few", "held_out", "held_few")}
    args = arguments(tmp_path, model=Path("m"), model_name="M", reward_model=None)
    words = {job.name: job for job in rates.jobs(args, pairs)}
    assert "reward.source.learning_rate=0.0001" in words["M-reward_model-lora-0.0001"].overrides
    assert "method.learning_rate=5e-06" in words["M-dpo-none-5e-06"].overrides
    assert not any("ppo" in name for name in words)  # which need a reward model
    args.reward_model = Path("r")
    assert sum("ppo" in job.name for job in rates.jobs(args, pairs)) == 2 * len(rates.FACTORS)


def point(arm: str, **figures: float) -> dict:
    """A point whose figures after training are given, all others as before."""
    before = {"chosen": 20.0, "general": 10.0, "kl": 0.0, "length": 100.0, "cut": 0.1}
    spent = {"train": 60.0, "evaluate_before": 30.0, "evaluate_after": 30.0}
    after = before | {"accuracy_low": 0.4, "accuracy_high": 0.6, "accuracy": 0.5} | figures
    return {"arm": arm, "status": "finished", "before": before, "after": after, "spent": spent, "memory_mib": 2048.0}


def test_better_is_said_only_of_an_interval():
    assert real_model.objective("dpo", [point("dpo", accuracy_low=0.51, accuracy_high=0.7)]) == "better"
    assert real_model.objective("dpo", [point("dpo")]) == "not shown"
    assert real_model.objective("dpo", [point("dpo", accuracy_low=0.2, accuracy_high=0.4)]) == "worse"
    falls = point("sft") | {"delta": {"chosen": -2.0, "chosen_low": -3.0, "chosen_high": -1.0}}
    assert real_model.objective("sft", [falls]) == "better"  # of a perplexity, less is better
    rises = point("grpo") | {"delta": {"proxy": 2.0, "proxy_low": 1.0, "proxy_high": 3.0}}
    assert real_model.objective("grpo", [rises]) == "better"
    assert real_model.objective("grpo", [point("grpo")]) == "-"


def test_a_row_tells_changes_time_memory_and_failures():
    cells = dict(zip(real_model.HEAD, real_model.row("dpo", [point("dpo", chosen=21.0, general=9.0)]), strict=True))
    assert (cells["perplexity of chosen"], cells["general text"]) == ("+5.0%", "-10.0%")
    assert (cells["training, min"], cells["evaluation, min"], cells["memory, GiB"]) == ("1.0", "1.0", "2.0")
    assert real_model.row("ppo_sparse", [{"status": "error: at chance"}])[:3] == ["ppo_sparse", "0", "error: at chance"]
