import json
import math

import pytest

from align.callbacks import RunInfo
from align.callbacks.jsonl import JsonlCallback, truncate_to
from align.files import read_lines


def run_info(folder, start=0):
    return RunInfo(folder=folder, config={"seed": 0}, method="ppo", max_steps=6, start_step=start, seed=0)


def record(step):
    return {"step": step, "seconds": step * 1.5, "rollout": (step - 1) // 2, "update": (step - 1) % 2, "kl/coef": 0.1}


def sample(i):
    return {"prompt_id": i, "sample_index": 0, "prompt": "p", "response": f"r{i}\n", "score": 0.5, "pieces": ["r", ""]}


SUMMARY = {"perplexity": 3.0, "reward": {"proxy_mean": 0.1, "gold_mean": None}, "win_rate": {"judge": "proxy"}}


def play(callback, first, last, *, end=False):
    """Updates first..last, two to a rollout, an evaluation after every fourth."""
    for step in range(first, last + 1):
        if step % 2 == 1:
            callback.on_rollout(step, [sample(step), sample(step + 100)])
        callback.on_step(record(step))
        if step % 4 == 0:
            callback.on_evaluation("during", step, SUMMARY)
    if end:
        callback.on_evaluation("after", last, SUMMARY)
        callback.on_end({})


def contents(folder):
    names = ("log_history.jsonl", "ppo_metrics.jsonl", "completions.jsonl")
    return {n: [{k: v for k, v in r.items() if k != "seconds"} for r in read_lines(folder / n)] for n in names}


def whole_run(folder):
    callback = JsonlCallback()
    callback.on_run_start(run_info(folder))
    callback.on_evaluation("before", 0, SUMMARY)
    play(callback, 1, 6, end=True)
    return contents(folder)


def test_files_of_a_run(tmp_path):
    files = whole_run(tmp_path)
    assert [r["step"] for r in files["ppo_metrics.jsonl"]] == [1, 2, 3, 4, 5, 6]
    assert [(r["step"], r.get("phase")) for r in files["log_history.jsonl"]] == [
        *((0, "before"), (1, None), (2, None), (3, None), (4, None)),
        *((4, "during"), (5, None), (6, None), (6, "after")),
    ]
    assert files["log_history.jsonl"][0] == {
        "step": 0,
        "phase": "before",
        "eval/perplexity": 3.0,
        "eval/reward/proxy_mean": 0.1,
    }
    assert [r["step"] for r in files["completions.jsonl"]] == [1, 1, 3, 3, 5, 5]
    assert files["completions.jsonl"][0]["response"] == "r1\n"


@pytest.mark.parametrize("checkpoint", [0, 1, 2, 4])
def test_resumed_files_equal_the_uninterrupted_ones(tmp_path, checkpoint):
    expected = whole_run(tmp_path / "whole")
    folder = tmp_path / "resumed"
    callback = JsonlCallback()
    callback.on_run_start(run_info(folder))
    callback.on_evaluation("before", 0, SUMMARY)
    play(callback, 1, 5)  # killed here, in the middle of writing
    with open(folder / "log_history.jsonl", "ab") as handle:
        handle.write(b'{"step": 6, "sec')
    callback = JsonlCallback()
    callback.on_run_start(run_info(folder, start=checkpoint))
    if checkpoint == 0:  # evaluated a second time, written once
        callback.on_evaluation("before", 0, SUMMARY)
    play(callback, checkpoint + 1, 6, end=True)
    assert contents(folder) == expected


def test_a_finished_run_that_goes_on_is_no_longer_at_its_end(tmp_path):
    whole_run(tmp_path)
    truncate_to(tmp_path, "ppo", 6)
    assert [r.get("phase") for r in read_lines(tmp_path / "log_history.jsonl")].count("after") == 0
    assert [r["step"] for r in read_lines(tmp_path / "ppo_metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_nan_record_is_valid_json(tmp_path):
    callback = JsonlCallback()
    callback.on_run_start(run_info(tmp_path))
    callback.on_step(record(1) | {"policy/loss": math.nan})
    callback.on_failure(RuntimeError("x"))
    (line,) = (tmp_path / "ppo_metrics.jsonl").read_text().splitlines()
    parsed = json.loads(line, parse_constant=pytest.fail)
    assert parsed["policy/loss"] is None
    assert parsed["nonfinite"] == ["policy/loss"]
