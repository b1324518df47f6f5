"""`python -m align.evaluate` on a finished run, a model and a reward model, and its one-line refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from align.cli.evaluate import main
from align.config.methods import BestOfNConfig, DPOConfig
from align.run.reward_models import train_reward_model
from align.run.runner import run
from tests import tiny
from tests.algorithms import runs
from tests.run.stages import LORA, setting, stage


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=["whole", "lora"])
def finished(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    method = DPOConfig(learning_rate=5e-3, batch_size=8)
    config = runs.config(method, data, adapter=None if request.param == "whole" else runs.LORA)
    run(config, folder, say=lambda line: None)
    return folder


def own(data: Path, *words: str) -> list[str]:
    paths = [f"data.path={data / 'train.jsonl'}", f"data.held_out_path={data / 'held_out.jsonl'}", "data=jsonl"]
    paths += [f"evaluation.general_text={data / 'general.jsonl'}", f"reward.source.path={tiny.reward_folder()}"]
    small = ["evaluation.num_prompts=4", "evaluation.num_pairs=4", "evaluation.num_texts=2", "evaluation.num_probes=1"]
    return [*paths, *small, "rollout.max_new_tokens=8", "reward=sparse", "device=cpu", "precision=fp32", *words]


def test_a_finished_run_gives_the_same_figures_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "evaluation.json").read_bytes()
    assert main([str(finished)]) == 0
    out = capsys.readouterr().out
    assert "evaluations/1/evaluation.json" in out.replace("\n", "")
    facts = json.loads((finished / "evaluations/1/run.json").read_text())
    lines = [f"{found['level']}: {found['what']} (turn {found['key']})" for found in facts["verdicts"]]
    assert lines and out.splitlines()[-len(lines) :] == lines
    trained = json.loads((finished / "run.json").read_text())
    assert "memory_plan_mib" in trained and "memory_plan_mib" not in facts  # nothing is trained a second time
    first, again = (
        json.loads(p.read_text()) for p in (finished / "evaluation.json", finished / "evaluations/1/evaluation.json")
    )
    assert again == first
    assert again["after"]["kl_per_response"] != 0
    assert (finished / "evaluation.json").read_bytes() == before
    samples = (finished / "evaluations/1/evaluation_samples.jsonl").read_bytes()
    assert samples == (finished / "evaluation_samples.jsonl").read_bytes()
    assert main([str(finished), "evaluation.num_prompts=3"]) == 0
    fewer = json.loads((finished / "evaluations/2/evaluation.json").read_text())
    assert fewer["settings"]["num_prompts"] == 3


def test_best_of_n_answers_as_in_its_run(data: Path, tmp_path: Path) -> None:
    run(runs.config(BestOfNConfig(n=2), data), tmp_path / "run", say=lambda line: None)
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 0
    first, again = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("run", "again"))
    assert again == first


def test_a_model_alone_and_against_another(data: Path, tmp_path: Path, finished: Path) -> None:
    if (finished / "model" / "adapter_config.json").exists():
        pytest.skip("an adapter is compared through its run")
    model = str(finished / "model")
    assert main([model, "--out", str(tmp_path / "alone"), *own(data)]) == 0
    alone = json.loads((tmp_path / "alone" / "evaluation.json").read_text())
    assert alone["after"] is None and alone["before"]["kl_per_response"] == 0
    against = ["--against", str(tiny.folder()), "--out", str(tmp_path / "both")]
    assert main([model, *against, *own(data)]) == 0
    both = json.loads((tmp_path / "both" / "evaluation.json").read_text())
    assert both["after"]["perplexity"] == pytest.approx(alone["before"]["perplexity"], rel=1e-6)
    assert both["after"]["kl_per_response"] != 0


def test_a_reward_models_report(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of transformers' classifiers, and of what a run trained and stored, whole and as an adapter."""
    models = [tiny.reward_folder(), tiny.reward_adapter()]
    for i, adapter in enumerate((None, LORA)):
        cfg, source = setting(adapter, epochs=1)
        models.append(tmp_path / f"stored_{i}")
        train_reward_model(stage(models[-1], cfg), source, {})
    for i, model in enumerate(models):
        assert main([str(model), "--out", str(tmp_path / str(i)), "--by", "prompt", *own(data)]) == 0
        report = json.loads((tmp_path / str(i) / "reward_model_report.json").read_text())
        assert report["accuracy"]["pairs"] == 8 and len(report["by"]["prompt"]) == 8
        assert set(report["moves"]) >= {"filler", "repetition", "confident"}
        out = capsys.readouterr().out
        assert "held-out accuracy" in out and "What moves the score" in out
        assert (tmp_path / str(i) / "reward_model_report.md").read_text().startswith("# Reward model")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: command line: given ''; allowed: the following arguments are required: TARGET"),
        (["./nowhere"], "error: TARGET: given './nowhere'"),
        (["align://pocket/nothing"], "error: TARGET: given 'align://pocket/nothing'"),
        (["RUN", "max_steps=3"], "error: max_steps: given 'max_steps=3'; allowed: evaluation.*, device"),
        (
            ["RUN", "evaluation.num_promts=3"],
            "error: evaluation.num_promts: given 'evaluation.num_promts=3'; allowed: num",
        ),
        (["RUN", "evaluation.num_prompts=-1"], "error: evaluation.num_prompts: given -1"),
        (["RUN", "--against", "x"], "error: --against: given 'x'"),
        (["RUN", "--by", "x"], "error: --by: given ['x']"),
        (["RUN", "--out", "RUN"], "an empty or"),
        (["MODEL", "methd=ppo"], "error: methd: given 'methd=ppo'"),
        (["MODEL"], "error: data: given 'nothing'; allowed: data=jsonl data.path=FILE"),
        (["MODEL", "evaluation.num_prompts=4", "method=dpo"], "error: data: given 'nothing'"),
        (["REWARD", "--against", "x"], "error: "),
        (["REWARD", "--by", "x"], "error: --by: given 'x'; allowed: a column of the data"),
    ],
)
def test_refusals_are_one_line(
    words: list[str], line: str, finished: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"RUN": finished, "MODEL": tiny.folder(), "REWARD": tiny.reward_folder()}
    given = [str(names.get(word, word)) for word in words]
    if words and words[0] == "REWARD":
        given += ["--out", str(tmp_path / "out"), *own(data)]
    assert main(given) == 2
    err = capsys.readouterr().err.strip().splitlines()
    shown = [text for text in err if text.startswith("error: ")]
    assert len(shown) == 1
    assert line in shown[0] or (line == "an empty or" and "nothing is overwritten" in shown[0])


def test_a_refusal_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from align.evaluate import main; code = main(['./nowhere'])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: TARGET: given './nowhere'")
