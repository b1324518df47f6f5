"""What the shell sees: one line and an exit code for every mistake, sweeps that outlive a failed job, completion."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from align.config.groups import METHODS
from align.errors import InputError, RunError

BIN = Path(sys.executable).parent
METHOD_NAMES = ", ".join(sorted(METHODS))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def files(folder):
    """Words that name real local files, so that the configuration is accepted."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "pairs.jsonl").write_text("{}\n")
    local = ["model.path=./model", "data.path=./pairs.jsonl", "data.held_out_path=null"]
    return [*local, "evaluation.general_text=./pairs.jsonl"]


@pytest.fixture
def align(folder, align):
    """The command, in a folder of its own."""
    return align


@pytest.fixture
def runner(monkeypatch):
    """Stands in for a training run: the wrapper is tested for whatever a run may do."""

    def install(run):
        monkeypatch.setitem(sys.modules, "align.run.runner", SimpleNamespace(run=run))

    return install


REWARDS = "dense, function, none, rules, sparse"
MISTAKES = {
    "unknown option": (["method=ppoo"], f"method: given 'ppoo'; allowed: {METHOD_NAMES}"),
    "unknown option of a subgroup": (
        ["reward/credit=dens"],
        "allowed: attention, auto, implicit, none, prefix, spans, sparse, truth, uniform",
    ),
    "unknown group": (
        ["rewards/credit=sparse"],
        "given 'rewards/credit=sparse'; allowed: reward/credit",
    ),
    "misspelt root key": (["max_step=3"], "max_step: given 'max_step=3'; allowed: max_steps, the nearest key"),
    "misspelt key": (
        ["method.gama=1"],
        "method.gama: given 'method.gama=1'; allowed: gamma, the nearest",
    ),
    "misspelt key, two deep": (["method.kl.coeff=1"], "method.kl.coeff: given 'method.kl.coeff=1'; allowed: coef"),
    "key of another section": (["max_new_tokens=8"], "allowed: rollout.max_new_tokens"),
    "nothing like it": (
        ["rollout.zzz=8"],
        "allowed: batch_size, max_new_tokens, truncated, truncated_score, temperature",
    ),
    "added key": (["+rollout.tempratur=1"], "rollout.tempratur: given '+rollout.tempratur'; allowed: temperature"),
    "column without a plus": (
        ["data.train_where.split=tune"],
        "data.train_where.split: given 'data.train_where.split=tune'; allowed: +data.train_where.KEY=VALUE",
    ),
    "number": (["max_steps=many"], "max_steps: given 'many'; allowed: a whole number"),
    "whole number": (["max_steps=1.5"], "max_steps: given '1.5'; allowed: a whole number"),
    "optional number": (["threads=all"], "threads: given 'all'; allowed: a whole number or null"),
    "float": (["method.gamma=high"], "method.gamma: given 'high'; allowed: a number"),
    "null": (["seed=null"], "seed: given 'null'; allowed: a whole number"),
    "switch": (["method.whiten_rewards=3.5"], "method.whiten_rewards: given '3.5'; allowed: true or false"),
    "choice": (["precision=fp8"], "precision: given 'fp8'; allowed: auto, fp32, bf16, fp16"),
    "list": (["method.adam_betas=3"], "method.adam_betas: given '3'; allowed: a list such as [a,b]"),
    "subgroup as a key": (["reward.credit=sparse"], "allowed: reward/credit=OPTION (a group is written with /)"),
    "section as a value": (["checkpoint=no"], "allowed: its keys one by one: checkpoint.every_steps, checkpoint.keep"),
    "group that is no name": (["reward=3"], f"reward: given '3'; allowed: {REWARDS}"),
    "list without multirun": (["seed=1,2"], "seed: given '1,2'; allowed: one value, or --multirun"),
    "unbalanced": (["method.gamma=[1"], "command line: given 'method.gamma=[1'"),
    "no value": (["method"], "command line: given 'method'; allowed: KEY=VALUE or GROUP=OPTION"),
    "unknown flag": (["--fast"], "command line: given '--fast'"),
    "flag with a wrong value": (["--cfg", "jobs"], "invalid choice: 'jobs'"),
    "missing folder of options": (["--config-dir", "nowhere"], "--config-dir: given "),
    "reference to nothing": (["data.path=${nothing}"], "data.path: given '${nothing}'"),
    "missing file": (["model.path=./nowhere"], "model.path: given './nowhere'"),
    "impossible pair": (["quantization.name=nf4", "adapter=none"], "adapter: given 'none'; allowed: lora"),
    "no run to resume": (["resume=nowhere"], "resume: given 'nowhere'; allowed: the folder of a run"),
    "folder that cannot be made": (["hydra.run.dir=/proc/nowhere/x"], "hydra.run.dir: given '/proc/nowhere"),
    "one bad job of a sweep": (["-m", "reward=sparse,thick"], f"reward: given 'thick'; allowed: {REWARDS}"),
}


@pytest.mark.parametrize(("words", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing_behind(align, files, folder, words, line):
    before = sorted(folder.rglob("*"))
    code, out, err = align(*files, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert line in err
    assert sorted(folder.rglob("*")) == before


def test_a_mistake_is_answered_quickly_and_without_torch(folder):
    script = (
        "import sys; sys.argv = ['align', 'model.path=./nowhere']\n"
        "from align.cli.main import main; code = main()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    assert end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime < 2  # seconds


@pytest.mark.parametrize("command", [[str(BIN / "align")], [sys.executable, "-m", "align"]], ids=["align", "python -m"])
def test_both_ways_to_call_it_return_the_exit_code(folder, command):
    done = subprocess.run([*command, "method=ppoo"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: method: given 'ppoo'; allowed: {METHOD_NAMES}\n"


def test_a_traceback_is_printed_where_it_is_asked_for(align, monkeypatch):
    monkeypatch.setenv("ALIGN_TRACEBACK", "1")
    code, _, err = align("method=ppoo")
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == f"error: method: given 'ppoo'; allowed: {METHOD_NAMES}"


def test_the_run_gets_the_checked_configuration_and_its_folder(align, files, folder, runner):
    calls = []
    runner(lambda config, path: calls.append((config, path)) or path.joinpath("kept").touch())
    code, out, err = align(*files, "seed=3")
    assert (code, out, err) == (0, "", "")
    ((config, path),) = calls
    assert config.seed == 3
    assert path.parent == folder / "outputs" / "ppo"
    assert [child.name for child in path.iterdir()] == ["kept"]  # nothing of Hydra's


def test_a_tilde_is_the_home_folder(align, files, folder, runner, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    paths = []
    runner(lambda config, path: paths.append(config.model.path))
    assert align(*files, "model.path=~/model")[0] == 0
    assert paths == [str(folder / "model")]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RunError("loss is not finite\nat step 3"), 1, "run failed: RunError: loss is not finite at step 3\n"),
        (ValueError(), 1, "run failed: ValueError\n"),
        (KeyboardInterrupt(), 130, "interrupted, go on with: align resume="),
    ],
    ids=["run error", "other error", "interrupt"],
)
def test_what_a_run_raises_is_one_line(align, files, runner, error, code, line):
    def run(config, path):
        (path / "ppo_step_10").mkdir()
        raise error

    runner(run)
    returned, _, err = align(*files)
    assert returned == code
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_failed_job_does_not_take_the_sweep_with_it(align, files, folder, runner):
    finished = []

    def run(config, path):
        (path / "config.yaml").touch()
        if config.seed == 1:
            raise RunError("diverged")
        finished.append((config.seed, path.name))

    runner(run)
    code, out, err = align(*files, "-m", "seed=0,1,2")
    assert code == 1
    assert finished == [(0, "0"), (2, "2")]
    assert [line.partition(":")[0] for line in out.splitlines()] == ["job 0", "job 1", "job 2"]
    first, last = err.splitlines()
    assert first.startswith("job 1 failed (")
    assert first.endswith("RunError: diverged")
    assert last.startswith("1 of 3 jobs failed")
    (sweep,) = (folder / "multirun").iterdir()
    records = [json.loads(line) for line in (sweep / "summary.jsonl").read_text().splitlines()]
    assert [record["exit_code"] for record in records] == [0, 1, 0]


def test_a_refusal_crosses_processes():
    error = InputError("a.b", 3, "more")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.b: given 3; allowed: more"


def test_a_sweep_of_refused_jobs_exits_2_and_leaves_no_empty_folders(align, files, folder):
    code, _, err = align("-m", *files, "rollout.batch_size=16,32", "method.minibatch_size=24")
    assert code == 2
    assert err.count("method.minibatch_size: given 24") == 2
    (sweep,) = (folder / "multirun").iterdir()
    assert sorted(path.name for path in sweep.iterdir()) == [
        "multirun.yaml",
        "report.html",
        "summary.jsonl",
        "summary.md",
    ]


def test_an_experiment_sweeps_its_own_values(align, files, runner):
    seen = []
    runner(lambda config, path: seen.append((config.reward.credit.name, config.seed)))
    code, _, err = align("experiment=sparse_vs_dense", *files)
    assert (code, err) == (0, "")
    assert sorted(seen) == [(credit, seed) for credit in ("attention", "sparse") for seed in (0, 1, 2)]


def test_a_run_resumes_in_its_own_folder_with_its_own_configuration(align, files, folder, runner):
    from align.config.io import save

    calls = []

    def run(config, path):
        calls.append((config, path))
        save(config, path / "config.yaml")

    runner(run)
    assert align(*files, "seed=5", "hydra.run.dir=first run")[0] == 0
    assert align("resume='first run'", "max_steps=120")[0] == 0
    (before, path), (after, again) = calls
    assert again == path == folder / "first run"
    assert (after.seed, after.max_steps, after.resume) == (5, 120, str(path))
    assert after.model == before.model
    code, _, err = align("resume='first run'", "seed=6")
    assert (code, len(calls)) == (2, 2)
    assert "seed: given 'seed=6'; allowed: max_steps, max_policy_tokens, checkpoint.keep, tracking" in err
    assert align("-m", "resume='first run'", "max_steps=120,130")[0] == 2
    assert align("resume='first run'", "hydra.run.dir=other")[0] == 2
    assert len(calls) == 2


def test_help_names_groups_and_examples(align):
    code, out, err = align("--help")
    assert (code, err) == (0, "")
    assert "reward/credit  attention, auto, implicit, none, prefix, spans, sparse, truth, uniform\n" in out
    assert "align -m reward=sparse,dense" in out
    assert "_schema" not in out


def test_cfg_prints_the_composition_and_starts_nothing(align, folder):
    code, out, err = align("--cfg", "job", "reward=sparse", "method.kl.coef=0.5")
    assert (code, err) == (0, "")
    assert "    coef: 0.5\n" in out
    assert "  credit:\n    name: sparse\n" in out
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("align reward/credit=", "reward/credit=uniform"),
        ("align method.kl.co", "method.kl.coef= method.kl.controller="),
    ],
)
def test_the_shell_completes_groups_and_keys(folder, line, expected):
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [str(BIN / "align"), "-sc", "query=bash"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_completion_is_installed_for_the_console_script(folder):
    command = [str(BIN / "align"), "-sc", "install=bash"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.stdout.strip().endswith("-F hydra_bash_completion align")


def test_a_folder_without_a_run_is_answered_by_its_own_line(align):
    """Hydra hides what a resolver raised behind an error of its own."""
    code, _, err = align("resume=nowhere")
    assert code == 2 and err.startswith("error: resume: given 'nowhere'; allowed: the folder of a run")
