"""A whole run on rows of each shape: what is said of the data, what is trained, and what is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.cli.evaluate import main as evaluate
from tests import tiny
from tests.e2e.test_run import SMALL, lines

WORDS = ("say it", "do", "again and again", "hello you", "count", "be", "tell me", "zoo", "what now", "why")
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
ROWS = {
    "prompt_only": [{"prompt": word} for word in WORDS],
    "demonstration": [
        {"messages": [*TURNS, {"role": "user", "content": word}, {"role": "assistant", "content": word[::-1]}]}
        for word in WORDS
    ],
    "unpaired_preference": [
        {"prompt": word, "completion": text, "label": label}
        for word in WORDS
        for text, label in (("aei", True), ("xyz" + word[0], False), ("zz", "false"))
    ],
    "ranked": [{"prompt": word, "responses": ["aei", "e", "xyz"], "scores": [3, 2, 1]} for word in WORDS],
}
ON_POLICY = ("reward=rules", "reward.source.length_window.weight=1", "reward.source.length_window.high=1")


@pytest.fixture
def run(align, tmp_path, monkeypatch):
    """Run a method on rows of a shape; return what was said, evaluation.json and run.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))

    def of(shape: str, *words: str):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]))
        small = [word for word in SMALL if not word.startswith("method.")]
        local = ["model=local", f"model.path={tiny.folder()}", "data=jsonl", "data.path=rows.jsonl", "adapter=none"]
        short = ["rollout.max_new_tokens=6", "data.held_out_fraction=0.3", "device=cpu", "hydra.run.dir=run"]
        code, _, said = align(*small, *local, *short, *words)
        assert code == 0, said
        found = [json.loads((tmp_path / "run" / name).read_text()) for name in ("evaluation.json", "run.json")]
        assert found[1]["data_shape"] == shape
        return said, *found

    return of


def test_prompts_alone(run):
    said, evaluation, record = run(
        "prompt_only",
        "method=grpo",
        "method.group_size=4",
        "method.minibatch_size=4",
        *ON_POLICY,
        "rollout.truncated=keep",
    )
    assert "data: 10 prompt-only rows (prompt)\n7 training prompts, 3 held out\n" in said
    assert record["data"]["train_prompts"] == 7 and record["data"]["responses"] == 0
    after = evaluation["after"]
    assert after["perplexity"] is None and "preference" not in after
    assert after["reward"]["proxy_mean"] is not None and after["forgetting_perplexity"] > 1
    assert evaluation["settings"]["num_pairs"] == evaluation["settings"]["num_demonstrations"] == 0


@pytest.mark.slow
def test_best_of_n_needs_prompts_alone(run):
    _, evaluation, _ = run("prompt_only", "method=best_of_n", "method.n=3", *ON_POLICY)
    assert evaluation["after"]["reward"]["proxy_mean"] >= evaluation["before"]["reward"]["proxy_mean"]


def test_demonstrations(run):
    said, evaluation, record = run(
        "demonstration", "method=sft", "method.batch_size=8", "max_steps=6", "method.learning_rate=1e-2"
    )
    assert "data: 10 demonstration rows (messages)\n14 training demonstrations, 3 held out\n" in said  # two turns of 7
    assert record["data"]["train_demonstrations"] == 14
    before, after, change = (evaluation[part] for part in ("before", "after", "delta"))
    assert "preference" not in after and evaluation["settings"]["num_demonstrations"] == 3
    assert before["perplexity_low"] <= before["perplexity"] <= before["perplexity_high"]
    assert after["perplexity"] < before["perplexity"] / 2
    assert change["perplexity_low"] <= change["perplexity"] <= change["perplexity_high"] < 0
    rows = lines(Path("run/evaluation_demonstrations.jsonl"))
    assert [row["phase"] for row in rows] == ["before"] * 3 + ["after"] * 3
    assert all(row["tokens"] > 1 and row["logprob"] < 0 for row in rows)


@pytest.mark.parametrize("method", [pytest.param("trl_kto", marks=pytest.mark.slow), "dpo"])
def test_unpaired_preferences(run, method):
    said, evaluation, record = run("unpaired_preference", f"method={method}", "method.batch_size=4")
    kind = {"trl_kto": "21 training labelled completions, 9 held out", "dpo": "14 training pairs, 6 held out"}[method]
    assert f"data: 30 unpaired preference rows (prompt, completion, label)\n{kind}\n" in said
    assert evaluation["after"]["preference"]["pairs"] == 6
    assert (record["data"]["train"], record["data"]["train_pairs"]) == (21, 14)


@pytest.mark.slow
def test_ranked_responses(run):
    said, evaluation, _ = run("ranked", "method=dpo", "method.batch_size=4", "data.ranked=all")
    assert "data: 10 ranked rows (prompt, responses, scores)\n21 training pairs, 9 held out\n" in said
    assert evaluation["after"]["preference"]["pairs"] == 8  # evaluation.num_pairs


@pytest.mark.parametrize(
    ("shape", "words", "told"),
    [
        ("prompt_only", ("method=dpo",), "error: method: given 'dpo'; allowed: a method that learns from prompts"),
        ("prompt_only", ("method=grpo",), "error: reward/source: given 'reward_model'; allowed: reward=rules"),
        ("demonstration", ("method=trl_kto",), "error: method: given 'trl_kto'"),
    ],
)
def test_what_the_rows_cannot_give_is_refused(align, tmp_path, monkeypatch, shape, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]))
    local = ["model=local", f"model.path={tiny.folder()}", "data=jsonl", "data.path=rows.jsonl", "device=cpu"]
    code, _, said = align(*local, *words, "hydra.run.dir=run")
    assert code == 2 and told in said and f"rows.jsonl, of {shape.replace('_', '-')} rows (" in said


def test_labels_without_partners_make_no_pairs(align, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": word, "completion": "a", "label": True} for word in WORDS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    local = ["model=local", f"model.path={tiny.folder()}", "data=jsonl", "data.path=rows.jsonl", "device=cpu"]
    code, _, said = align(*local, "method=dpo", "hydra.run.dir=run")
    assert code == 2 and "error: data.path: given 'rows.jsonl'; allowed: rows that make preference pairs" in said
    assert "unpartnered 10" in said


def test_what_is_shown(align, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = ["model=local", f"model.path={tiny.folder()}", "data=jsonl", "data.path=rows.jsonl", "device=cpu"]
    for shape, words, told in (
        ("prompt_only", ("method=grpo", *ON_POLICY), "prompt 1 (rows.jsonl, row 1): "),
        ("demonstration", ("method=sft",), "every token of the completion, its end included"),
        ("unpaired_preference", ("method=trl_kto",), "completion 2 (rows.jsonl, row 2), undesirable completion: "),
        ("ranked", ("method=sft",), "completion 1 (rows.jsonl, row 1), completion: "),
        ("ranked", ("method=trl_kto",), "pair 1 (rows.jsonl, row 1), rejected: "),
    ):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]))
        code, out, said = align("show", "data", *local, *words)
        assert code == 0, said
        assert told in out and f"{shape.split('_')[0]}" in out


def test_a_model_is_measured_on_prompts_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS["prompt_only"]))
    small = [
        "evaluation.num_prompts=2",
        "evaluation.num_texts=2",
        "rollout.max_new_tokens=6",
        "device=cpu",
        "threads=1",
    ]
    assert (
        evaluate(
            [str(tiny.folder()), "data=jsonl", "data.path=rows.jsonl", "data.shape=prompt_only", *small, "--out", "out"]
        )
        == 0
    )
    assert "1 held out" in capsys.readouterr().err
    before = json.loads(Path("out/evaluation.json").read_text())["before"]
    assert before["perplexity"] is None and before["forgetting_perplexity"] > 1
