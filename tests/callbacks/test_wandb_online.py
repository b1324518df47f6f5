"""The real client against a server on this machine: what arrives there is what the run's own files hold."""

import json
import logging
import time

import pytest
import yaml

from align.callbacks import RunInfo
from align.callbacks.jsonl import JsonlCallback
from align.callbacks.wandb import ID_FILE, WandbCallback
from align.cli.resume import resumed_config
from align.config import CheckpointConfig, TrackingConfig, TrackingMode
from align.config.callbacks import CallbacksConfig, ProgressConfig
from align.config.io import register_schemas
from align.config.methods import PPOConfig
from align.files import read_lines
from align.run.runner import run
from tests.algorithms import runs
from tests.callbacks.wandb_server import ENTITY, PROJECT

pytest.importorskip("wandb")


def tracking(**settings):
    return TrackingConfig(
        **{"name": "wandb", "mode": TrackingMode.online, "project": PROJECT, "entity": ENTITY} | settings
    )


def told(history):
    """Records as the files have them: without the client's own keys and without tables."""
    rows = [{k: v for k, v in row.items() if not k.startswith("_")} for row in history]
    return [row for row in rows if "completions" not in row]


def without_clock(record):
    return {k: v for k, v in record.items() if k != "seconds" or "phase" not in record}


def test_a_run_and_its_continuation_arrive_as_one_run(server, tmp_path):
    folder = tmp_path / "run"
    config = runs.config(
        PPOConfig(minibatch_size=4),
        runs.write_data(tmp_path / "data"),
        max_steps=3,
        seed=5,
        evaluation={"every_steps": 2},
    )
    config.tracking = tracking(group="sweep", tags=["x"])
    config.checkpoint = CheckpointConfig(every_steps=3)
    config.callbacks = CallbacksConfig(progress=ProgressConfig(enabled=False))
    run(config, folder, say=lambda line: None)
    (name,) = server.runs
    sent = server.runs[name]
    assert name == json.loads((folder / ID_FILE).read_text())["id"]
    assert sent["exit_code"] == 0
    fields = sent["fields"]
    assert (fields["groupName"], fields["jobType"], fields["tags"]) == ("sweep", "ppo", ["x"])
    # The configuration: what config.yaml says.
    resolved = {key: entry["value"] for key, entry in sent["config"].items() if key != "_wandb"}
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved == without_empty(saved)  # the client leaves out what is empty
    assert saved["callbacks"]["own"] == {} == saved["data"]["train_where"]
    # The axes: everything against `step`.
    axes = {m.get("1") or m.get("2"): m for m in sent["config"]["_wandb"]["value"]["m"]}
    order = [m.get("1") or m.get("2") for m in sent["config"]["_wandb"]["value"]["m"]]
    assert order[axes["*"]["5"] - 1] == "step"
    assert order[axes["eval/perplexity"]["5"] - 1] == "step"
    # Every record with every key, in order.
    files = list(read_lines(folder / "log_history.jsonl"))
    assert list(map(without_clock, told(sent["history"]))) == list(map(without_clock, files))
    assert [set(row) for row in told(sent["history"])] == [set(row) for row in files]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert sent["summary"]["after/perplexity"] == evaluation["after"]["perplexity"]
    assert sent["summary"]["before/reward/proxy_mean"] == evaluation["before"]["reward"]["proxy_mean"]
    # Completions as tables, with a reward for each token.
    tables = [json.loads(content) for path, content in server.uploads.items() if "media/table/completions" in path]
    rows = [dict(zip(table["columns"], row, strict=True)) for table in tables for row in table["data"]]
    logged = list(read_lines(folder / "completions.jsonl"))
    key = ("step", "prompt_id", "sample_index", "response", "score")
    assert sorted([row[k] for k in key] for row in rows) == sorted([row[k] for k in key] for row in logged)
    for row in rows:
        (sample,) = [one for one in logged if [one[k] for k in key] == [row[k] for k in key]]
        paid = [float(word.rpartition("(")[2]) for word in row["token_rewards"].split(")")[:-1]]
        assert paid == pytest.approx(sample["token_rewards"], rel=1e-2, abs=1e-9)

    register_schemas()
    more = resumed_config(folder, {"max_steps": 4})
    run(more, folder, say=lambda line: None)
    assert list(server.runs) == [name]
    files = list(read_lines(folder / "log_history.jsonl"))
    history = [row for row in told(sent["history"]) if (row.get("phase"), row["step"]) != ("after", 3)]  # it went on
    assert list(map(without_clock, history)) == list(map(without_clock, files))
    assert [row["_step"] for row in sent["history"]] == list(range(len(sent["history"])))
    assert server.unknown == []


def without_empty(value):
    """`value` without the mappings in it that have no key."""
    if not isinstance(value, dict):
        return value
    return {key: without_empty(one) for key, one in value.items() if one != {}}


def record(step):
    return {"step": step, "seconds": 1.5 * step, "rollout": 0, "update": step, "kl/coef": 0.1}


def test_a_server_that_breaks_down_is_said_once_and_loses_nothing(server, tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir()
    callback, files = WandbCallback(tracking(), timeout=2.0), JsonlCallback()
    with caplog.at_level(logging.INFO):
        for one in (files, callback):
            one.on_run_start(RunInfo(folder, {"seed": 3}, "ppo", 4, 0, 3))
            one.on_step(record(1))
        server.broken = True
        began = time.monotonic()
        for one in (files, callback):
            one.on_step(record(2))
            one.on_evaluation("after", 2, {"perplexity": 3.0})
            one.on_end({})
        assert time.monotonic() - began < 8
    (said,) = [r.message for r in caplog.records if r.name == "align.callbacks.wandb"]
    assert "the run goes on without it" in said and "\n" not in said
    assert len(list(read_lines(folder / "log_history.jsonl"))) == 3
