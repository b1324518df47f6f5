"""The real client, offline or against a closed port; offline runs are read back from their file."""

import json
import logging
import math
import struct
import time

import pytest

from align.callbacks import CallbackList, RunInfo
from align.callbacks.wandb import ID_FILE, WandbCallback
from align.config import TrackingConfig, TrackingMode

pytest.importorskip("wandb")
from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768  # of the LevelDB log format, in which the client keeps its records


pytestmark = pytest.mark.usefixtures("wandb_environment")


def read_back(folder):
    """The records of the offline runs in a folder, oldest first."""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime_ns):
        data, at, held = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if BLOCK - at % BLOCK < 7:  # the rest of a block that cannot hold a header
                at += BLOCK - at % BLOCK
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            held += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(held)
                held = b""


def finished(folder, sittings=1):
    """The records, once the client's own process has written the end of every sitting."""
    for _ in range(200):
        records = list(read_back(folder))
        if sum(r.HasField("exit") for r in records) == sittings:
            return records
        time.sleep(0.05)
    raise AssertionError(f"{sittings} sittings, but only {len(records)} records")


def items(entries):
    return {e.key or "/".join(e.nested_key): json.loads(e.value_json) for e in entries}


def run_info(folder, start=0):
    folder.mkdir(exist_ok=True)
    config = {"seed": 3, "method": {"name": "ppo", "kl": {"coef": 0.05}}, "data": {"max_prompt_tokens": 9}}
    return RunInfo(folder, config, "ppo", 4, start, 3)


def record(step):
    return {"step": step, "seconds": 1.5 * step, "rollout": 0, "update": step, "kl/coef": 0.1, "policy/loss": -step / 8}


SAMPLE = {"prompt_id": 7, "sample_index": 0, "prompt": "p", "response": "r!", "ended": True, "score": 0.5}
SAMPLE |= {"parts": {"a": 0.5}, "pieces": ["r", "!", ""], "token_rewards": [0.1, 0.0, 0.4]}
SUMMARY = {"perplexity": 3.5, "reward": {"proxy_mean": 0.25, "gold_mean": None}, "win_rate": {"judge": "gold"}}


def test_offline_run_holds_what_the_files_hold(tmp_path):
    folder = tmp_path / "run"
    config = TrackingConfig(name="wandb", mode=TrackingMode.offline, project="proj", group="sweep", tags=["x"])
    callback = WandbCallback(config)
    callback.on_run_start(run_info(folder))
    callback.on_evaluation("before", 0, SUMMARY)
    callback.on_rollout(1, [SAMPLE])
    for step in (1, 2):
        callback.on_step(record(step))
    callback.on_evaluation("after", 2, SUMMARY | {"perplexity": 3.0})
    callback.on_end({})

    records = finished(folder)
    run = next(r.run for r in records if r.HasField("run"))
    assert (run.project, run.run_group, run.job_type, list(run.tags)) == ("proj", "sweep", "ppo", ["x"])
    assert run.run_id == json.loads((folder / ID_FILE).read_text())["id"]
    resolved = items(run.config.update)
    assert resolved["method"] == {"name": "ppo", "kl": {"coef": 0.05}}
    assert resolved["seed"] == 3
    assert {r.metric.glob_name: r.metric.step_metric for r in records if r.HasField("metric")}["*"] == "step"

    history = [
        {k: v for k, v in items(r.history.item).items() if not k.startswith("_")}
        for r in records
        if r.HasField("history")
    ]
    assert [h for h in history if "kl/coef" in h] == [record(1), record(2)]
    (first,) = [h for h in history if h.get("phase") == "before"]
    assert first.pop("seconds") >= 0
    assert first == {"step": 0, "phase": "before", "eval/perplexity": 3.5, "eval/reward/proxy_mean": 0.25}
    (table,) = [h["completions/path"] for h in history if "completions/path" in h]
    stored = json.loads(next(folder.glob("wandb/offline-run-*/files/" + table)).read_text())
    row = dict(zip(stored["columns"], stored["data"][0], strict=True))
    assert row["response"] == "r!"
    assert row["token_rewards"] == "r(+0.1) !(+0) (+0.4)"
    assert row["step"] == 1
    summary = {}
    for r in records:
        if r.HasField("summary"):
            summary |= items(r.summary.update)
    assert summary["before/perplexity"] == 3.5
    assert summary["after/perplexity"] == 3.0
    assert next(r.exit.exit_code for r in records if r.HasField("exit")) == 0


def test_resumed_run_keeps_its_id_and_a_failed_one_its_exit_code(tmp_path):
    folder = tmp_path / "run"
    for start in (0, 2):
        callback = WandbCallback(TrackingConfig(name="wandb", mode=TrackingMode.offline))
        callback.on_run_start(run_info(folder, start))
        callback.on_step(record(start + 1))
        callback.on_failure(RuntimeError("x"))
        time.sleep(1.0)  # the client names its folders by the second
    records = finished(folder, sittings=2)
    assert len({r.run.run_id for r in records if r.HasField("run")}) == 1
    assert [r.exit.exit_code for r in records if r.HasField("exit")] == [1, 1]


def test_unreachable_server_is_reported_once_without_the_key(tmp_path, monkeypatch, caplog):
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    callback = WandbCallback(TrackingConfig(name="wandb", mode=TrackingMode.online), timeout=2.0)
    with caplog.at_level(logging.INFO):
        callback.on_run_start(run_info(tmp_path / "run"))
        callback.on_rollout(1, [SAMPLE])
        callback.on_step(record(1))
        callback.on_evaluation("after", 1, SUMMARY)
        callback.on_end({})
    assert time.monotonic() - began < 10
    (said,) = [r.message for r in caplog.records if r.name == "align.callbacks.wandb"]
    assert "the run goes on without it" in said
    assert "\n" not in said
    assert key not in caplog.text
    assert not any(key in p.read_text(errors="replace") for p in (tmp_path / "run").rglob("*") if p.is_file())


def test_failure_while_logging_is_reported_once(tmp_path, caplog):
    callback = WandbCallback(TrackingConfig(name="wandb", mode=TrackingMode.offline))
    callback.on_run_start(run_info(tmp_path / "run"))
    callback.on_step(record(1))
    callback._run.finish()  # the client refuses to log after this
    for step in (2, 3):
        callback.on_step(record(step) | {"policy/loss": math.nan})
    callback.on_end({})
    assert [r.name for r in caplog.records].count("align.callbacks.wandb") == 1
    (told,) = CallbackList([callback]).failures  # so run.json and the report say it too
    assert told.startswith("tracking: Weights & Biases failed (") and told in caplog.text


def test_disabled_leaves_no_file(tmp_path):
    callback = WandbCallback(TrackingConfig(name="wandb", mode=TrackingMode.disabled))
    callback.on_run_start(run_info(tmp_path / "run"))
    callback.on_step(record(1))
    callback.on_end({})
    assert not list((tmp_path / "run").glob("wandb/*run-*"))
