"""What a newcomer's first run leaves, on the embedded model and on files of their own."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, AutoTokenizer

from align import metrics
from align.cli.groups import CONF
from align.config.io import build, register_schemas
from align.errors import InputError
from align.run.runner import run
from tests import tiny

SMALL = [
    "max_steps=3",
    "rollout.batch_size=8",
    "method.minibatch_size=4",
    "rollout.max_new_tokens=48",
    "checkpoint.every_steps=2",
    "evaluation.num_prompts=8",
    "evaluation.num_pairs=8",
    "evaluation.num_texts=4",
    "evaluation.num_probes=2",
    "threads=1",
]
VERBOSITY = {"mean_tokens", "median_tokens", "std_tokens", "mean_words", "compliance_rate"}


def start(folder: Path, *words: str, small: Sequence[str] = SMALL) -> dict[str, Any]:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = build(compose("config", [*small, *words]))
    return run(config, folder, say=lambda line: None)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", params=[pytest.param(reward, marks=pytest.mark.slow) for reward in ("dense", "sparse")])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    start(folder, "method=ppo", f"reward={request.param}")
    return folder


def test_the_folder_is_whole(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    files = "config.yaml run.json log_history.jsonl ppo_metrics.jsonl completions.jsonl evaluation.json report.html"
    assert {*files.split(), "model", "ppo_step_2", "ppo_step_3"} <= names
    assert not [name for name in names if name.endswith((".tmp", ".partial"))]
    pickles = [p for p in finished.rglob("*") if p.suffix in (".pt", ".bin", ".pkl", ".pth")]
    assert pickles == []


def test_every_record_has_every_metric_of_the_table(finished: Path) -> None:
    records = lines(finished / "ppo_metrics.jsonl")
    assert [(r["step"], r["rollout"], r["update"]) for r in records] == [(1, 0, 1), (2, 0, 2), (3, 1, 1)]
    for record in records:
        assert metrics.compare(record, "ppo") == (set(), set())
        assert "nonfinite" not in record
    assert records[0]["policy/approx_kl"] < 1e-6
    assert records[0]["kl/per_response_k1"] == 0.0


def test_evaluation_has_its_keys(finished: Path) -> None:
    content = json.loads((finished / "evaluation.json").read_text())
    for phase in ("before", "after", "delta"):
        part = content[phase]
        assert {"perplexity", "forgetting_perplexity", "kl_per_response", "reward", "win_rate", "verbosity"} <= set(
            part
        )
        assert {"proxy_mean", "gold_mean"} <= set(part["reward"])
        assert {"mean", "low", "high"} <= set(part["win_rate"])
        assert set(part["verbosity"]) >= VERBOSITY
    assert content["before"]["win_rate"]["mean"] == 0.5
    assert content["before"]["kl_per_response"] == 0.0
    after, before = content["after"]["perplexity"], content["before"]["perplexity"]
    assert content["delta"]["perplexity"] == pytest.approx(after - before)


def test_a_response_that_would_not_fit_the_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rollout.max_new_tokens: given 100000; allowed: at most \d+"):
        start(tmp_path, "rollout.max_new_tokens=100000")


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["dense", "sparse"])
def test_the_gold_reward_rises(reward: str, tmp_path: Path) -> None:
    """Twenty of the default run's hundred updates, at its full batch."""
    words = ("rollout.batch_size=64", "method.minibatch_size=16", "max_steps=20", "evaluation.num_prompts=96")
    result = start(tmp_path, f"reward={reward}", *words, "rollout.max_new_tokens=96", "checkpoint.every_steps=0")
    assert result["after"]["reward"]["gold_mean"] > result["before"]["reward"]["gold_mean"] + 0.02
    assert result["after"]["reward"]["proxy_mean"] > result["before"]["reward"]["proxy_mean"] + 0.05
    assert result["after"]["kl_per_response"] > 0


@pytest.mark.slow
def test_nothing_is_said_of_a_healthy_run_with_an_evaluation_of_the_usual_size(tmp_path: Path) -> None:
    words = ["method=dpo", "max_steps=10", "rollout.max_new_tokens=128", "threads=1", "checkpoint.every_steps=0"]
    assert start(tmp_path, *words, small=())["verdicts"] == []
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"


def test_token_rewards_sum_to_the_score(finished: Path) -> None:
    rows = [row for row in lines(finished / "completions.jsonl") if row["ended"]]
    assert rows
    for row in rows:
        assert sum(row["token_rewards"]) == pytest.approx(row["score"], abs=1e-4)
        assert "".join(row["pieces"]) == row["response"]


def test_the_model_loads_with_transformers_alone(finished: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Add 1 and 2."}], add_generation_prompt=True, return_tensors="pt"
    )
    out = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > prompt["input_ids"].shape[1]


@pytest.mark.slow
def test_the_first_run_uses_the_shipped_reward_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    start(tmp_path / "run", "max_steps=1")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "assets" in facts["reward_model"]["folder"]
    assert facts["reward_model"]["held_out"]["accuracy"] > facts["reward_model"]["held_out"]["longer_wins"]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_own_model_and_own_files(kind: str, adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward model is trained from the file's pairs, with other column names, and used."""
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))
    rows = [{"question": f"say {a}", "good": a * 3, "bad": "zz"} for a in tiny.LETTERS[:20]]
    path = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(path, "w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    columns = ("data.prompt_column=question", "data.chosen_column=good", "data.rejected_column=bad")
    own = ("model=local", f"model.path={tiny.folder()}", f"data={kind}", f"data.path={path}", f"adapter={adapter}")
    result = start(tmp_path / "run", *own, *columns, "reward=dense", "reward.source.batch_size=4")
    assert result["step"] == 3
    assert result["after"]["reward"]["gold_mean"] is None
    assert len(list((tmp_path / "home" / "reward_models").glob("*/reward_model.json"))) == 1
