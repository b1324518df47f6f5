"""Sweeps from the command line to the table: small real ones, what the experiments compose, and the figures by hand."""

from __future__ import annotations

import io
import json
import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import load_dataset
from rich.console import Console

from align.cli.table import print_table
from align.errors import ERROR, NOTE, WARNING, RunError, Verdict
from align.report.summary import arm_names, arms
from align.report.tables import markdown
from align.worlds import resolve
from tests import tiny

ROWS = {"train.parquet": 48, "held_out.jsonl": 12, "general.jsonl": 4}
SMALL = [
    "data.path=train.jsonl",
    "data.held_out_path=held_out.jsonl",
    "evaluation.general_text=general.jsonl",
    "evaluation.num_prompts=4",
    "evaluation.num_pairs=4",
    "rollout.max_new_tokens=8",
    "reward.source.reference_responses=8",
    "checkpoint.every_steps=0",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def folder(tmp_path, monkeypatch, home):
    """The working directory, with a few rows of the embedded world; trained reward models are kept in `home`."""
    for name, count in ROWS.items():
        kind = "parquet" if name.endswith(".parquet") else "json"
        rows = load_dataset(kind, data_files=str(resolve(f"align://pocket/{name}")), split=f"train[:{count}]")
        rows.to_json(tmp_path / f"{Path(name).stem}.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGN_HOME", str(home))
    return tmp_path


@pytest.fixture
def align(folder, align):
    """The command on small runs."""
    return partial(align, *SMALL)


@pytest.fixture
def composed(monkeypatch):
    """The configurations that jobs get, in place of runs."""
    seen = []
    monkeypatch.setitem(sys.modules, "align.run.runner", SimpleNamespace(run=lambda config, path: seen.append(config)))
    return seen


def summary(sweep: Path) -> list[dict]:
    return [json.loads(line) for line in (sweep / "summary.jsonl").read_text().splitlines()]


def test_what_tracks_a_sweep_groups_its_jobs_under_its_folder(align, composed):
    align("-m", "seed=0,1", "tracking=wandb", "hydra.sweep.dir=some/sweep")
    align("-m", "seed=0", "tracking=wandb", "tracking.group=mine", "hydra.sweep.dir=other/sweep")
    align("seed=0", "tracking=wandb", "hydra.run.dir=one")
    assert [config.tracking.group for config in composed] == ["sweep", "sweep", "mine", None]


# Real sweeps ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_arms_spend_the_same_policy_tokens_on_one_reward_model(align, home, folder):
    budget = 5000
    arguments = [f"max_policy_tokens={budget}", "seed=0", "rollout.batch_size=32", "hydra.sweep.dir=sweep"]
    code, out, err = align("experiment=methods", *arguments)
    assert code == 0, err
    jobs = summary(folder / "sweep")
    names = ["dpo", "ppo_sparse", "ppo_dense", "grpo", "sft", "best_of_n"]
    assert [job["overrides"][0] for job in jobs] == [f"arm={name}" for name in names]
    assert [job["job"] for job in jobs] == list(range(6))
    # One reward model for all: trained by the first job, found by the others.
    assert err.count("training the reward model") == 1
    assert len([path for path in (home / "reward_models").iterdir() if path.is_dir()]) == 1
    assert jobs[0]["phases"]["reward_model"] > 10 * max(job["phases"]["reward_model"] for job in jobs[1:])
    for job in jobs[:-1]:
        run = folder / "sweep" / job["folder"]
        records = [json.loads(line) for line in (run / "log_history.jsonl").read_text().splitlines()]
        tokens = [record["tokens/policy"] for record in records if "phase" not in record]
        assert tokens[-1] >= budget > tokens[-2]  # stopped at once, and not before
        assert job["metrics"]["tokens/policy"] == tokens[-1]
        assert job["stopped"] == f"{tokens[-1]:.0f} policy tokens reach max_policy_tokens={budget}"
        evaluation = json.loads((run / "evaluation.json").read_text())
        assert (job["before"], job["after"]) == (evaluation["before"], evaluation["after"])
    assert (jobs[-1]["metrics"], jobs[-1]["stopped"]) == (None, None)
    assert jobs[-1]["after"]["reward"]["proxy_mean"] > jobs[-1]["before"]["reward"]["proxy_mean"]
    table = (folder / "sweep" / "summary.md").read_text()
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == names
    last = out[out.rindex("run folder") :].splitlines()
    assert [line.split()[0] for line in last if line.split()[:1] and line.split()[0] in names] == names


def test_a_failed_job_is_listed_with_its_error_and_the_others_finish(align, folder):
    (folder / "broken.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')  # found out by the run, not before it
    small = ["max_steps=2", "rollout.batch_size=8", "method.minibatch_size=4", "hydra.sweep.dir=sweep"]
    code, out, err = align("-m", "reward=dense", "data.path=broken.jsonl,train.jsonl", "seed=0,1", *small)
    assert code == 2
    jobs = summary(folder / "sweep")
    assert [job["exit_code"] for job in jobs] == [2, 2, 0, 0]
    assert all("rejected" in job["error"] and job["after"] is None for job in jobs[:2])
    assert [job["metrics"]["step"] for job in jobs[2:]] == [2, 2]
    ends = err.splitlines()[-3:]
    assert [end.partition(" failed")[0] for end in ends[:2]] == ["job 0", "job 1"]
    assert all(job["error"] in end for job, end in zip(jobs[:2], ends[:2], strict=True))
    assert ends[2].startswith("2 of 4 jobs failed")
    table = (folder / "sweep" / "summary.md").read_text()
    assert "`broken.jsonl` | 0 of 2 | 2 failed | - |" in table
    facts = [json.loads((folder / "sweep" / n / "run.json").read_text()) for n in ("2", "3")]
    assert [job["verdicts"] for job in jobs[2:]] == [one["verdicts"] for one in facts]
    assert f"- job 1, `{' '.join(jobs[1]['overrides'])}`: {jobs[1]['error']}\n" in table
    # Of two values a and b: t(1) s / sqrt(2) = 12.706 |a - b| / 2.
    (done,) = (arm for arm in arms(jobs) if arm.finished)
    evaluations = [json.loads((folder / "sweep" / n / "evaluation.json").read_text()) for n in ("2", "3")]
    a, b = (evaluation["after"]["kl_per_response"] for evaluation in evaluations)
    assert a != b
    assert done.figures["KL"].mean == pytest.approx((a + b) / 2)
    assert done.figures["KL"].half == pytest.approx(12.7062 * abs(a - b) / 2, rel=1e-5)
    drift = [e["after"]["forgetting_perplexity"] - e["before"]["forgetting_perplexity"] for e in evaluations]
    assert done.figures["forgetting"].mean == pytest.approx(sum(drift) / 2)
    assert "± " in out and "broken.jsonl" in out


# What the experiments compose ----------------------------------------------------------------------------------------


def test_group_sizes_are_compared_at_equal_numbers_of_responses(align, composed):
    assert align("experiment=group_size")[0] == 0
    assert [(c.method.group_size, c.seed) for c in composed] == [(g, s) for g in (2, 4, 8, 16) for s in (0, 1, 2)]
    assert {c.method.name for c in composed} == {"grpo"}
    shared = {(c.rollout.batch_size, c.method.minibatch_size, c.method.epochs, c.max_steps) for c in composed}
    assert len(shared) == 1


def test_arms_choose_method_and_credit_and_share_the_budget(align, composed):
    assert align("experiment=methods", "seed=0")[0] == 0
    assert [(c.method.name, c.reward.credit.name) for c in composed] == [
        ("dpo", "sparse"),
        ("ppo", "sparse"),
        ("ppo", "attention"),
        ("grpo", "sparse"),
        ("sft", "sparse"),
        ("best_of_n", "sparse"),
    ]
    ((tokens, steps),) = {(c.max_policy_tokens, c.max_steps) for c in composed}
    assert tokens and steps > 1000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["experiment=methods", "arm=dpo", "seed=7"], [("dpo", "sparse", 7)]),
        (["experiment=methods", "arm=sft,dpo", "seed=7"], [("sft", "sparse", 7), ("dpo", "sparse", 7)]),
        (["experiment=methods", "hydra.sweeper.params.arm=grpo", "seed=0"], [("grpo", "sparse", 0)]),
        (["arm=dpo", "method=sft"], [("sft", "sparse", 0)]),
        (["arm=ppo_dense", "reward=sparse"], [("ppo", "sparse", 0)]),
        (["arm=ppo_sparse", "reward/credit=prefix"], [("ppo", "prefix", 0)]),
        (["experiment=group_size", "method.group_size=4", "reward=dense", "seed=1"], [("grpo", "attention", 1)]),
        (["experiment=sparse_vs_dense", "reward=dense", "arm=grpo", "seed=5"], [("grpo", "attention", 5)]),
    ],
)
def test_the_command_line_wins_over_experiment_and_arm(align, composed, words, expected):
    assert align(*words)[0] == 0
    assert [(c.method.name, c.reward.credit.name, c.seed) for c in composed] == expected


def test_the_command_line_wins_over_an_experiments_own_keys_which_win_over_the_defaults(align, composed):
    assert align("experiment=methods", "arm=dpo", "seed=0", "max_policy_tokens=5", "method.beta=0.3")[0] == 0
    (config,) = composed
    assert (config.max_policy_tokens, config.max_steps, config.method.beta) == (5, 10_000, 0.3)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["arm=dpoo"], "arm: given 'dpoo'; allowed: best_of_n, dpo, grpo, ppo_dense, ppo_sparse, sft"),
        (
            ["-m", "experiment=methodz"],
            "experiment: given 'methodz'; allowed: group_size, methods, overoptimise, sparse_vs_dense",
        ),
        (["experiment=group_size", "method=ppo"], "method.group_size: given "),
        (["max_policy_tokens=0"], "max_policy_tokens: given 0; allowed: a number above 0"),
        (["max_policy_tokens=9", "method.lr_schedule=linear"], "method.lr_schedule: given 'linear'; allowed: constant"),
    ],
)
def test_mistakes_are_one_line(align, words, line):
    code, _, err = align(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert f"error: {line}" in err


def test_help_lists_arms_and_experiments(align):
    out = align("--help")[1]
    assert "arm            best_of_n, dpo, grpo, ppo_dense, ppo_sparse, sft\n" in out
    assert "experiment     group_size, methods, overoptimise, sparse_vs_dense\n" in out


# The summary ---------------------------------------------------------------------------------------------------------


def runs_that(monkeypatch, outcome):
    """`outcome(seed)` in place of a run: raises, or returns the perplexity that the run's evaluation reports."""

    def run(config, path):
        evaluation = {
            "before": {"forgetting_perplexity": 1.0},
            "after": {"forgetting_perplexity": outcome(config.seed)},
        }
        (path / "config.yaml").write_text("seed: 0\n")
        (path / "evaluation.json").write_text(json.dumps(evaluation))

    monkeypatch.setitem(sys.modules, "align.run.runner", SimpleNamespace(run=run))


def test_a_second_sweep_into_the_same_folder_is_refused_or_moves_the_first_aside(align, folder, monkeypatch):
    runs_that(monkeypatch, lambda seed: 1.0 + seed)
    assert align("-m", "seed=0,1,2", "hydra.sweep.dir=sweep")[0] == 0
    assert align("-m", "seed=thick,1", "hydra.sweep.dir=sweep")[0] == 2
    code, _, err = align("-m", "seed=4,5", "hydra.sweep.dir=sweep")
    assert code == 2 and "hydra.sweep.dir" in err and "overwrite=true moves it aside" in err
    assert len(summary(folder / "sweep")) == 3  # nothing ran: the first one's is left
    code, out, err = align("-m", "seed=4,5", "hydra.sweep.dir=sweep", "overwrite=true")
    assert code == 0 and f"moved what {folder / 'sweep'} held to {folder / 'sweep.1'}" in err
    assert len(summary(folder / "sweep.1")) == 3
    assert [job["overrides"][-2] for job in summary(folder / "sweep")] == ["seed=4", "seed=5"]
    assert "4.500" in out and "± 6.353" in out  # 12.7062 / 2


def test_an_interrupted_sweep_sums_up_what_had_ended(align, folder, monkeypatch):
    def outcome(seed):
        if seed == 2:
            raise KeyboardInterrupt
        if seed == 1:
            raise RunError("diverged")
        return 3.0

    runs_that(monkeypatch, outcome)
    code, out, _ = align("-m", "seed=0,1,2,3", "hydra.sweep.dir=sweep")
    assert code == 130
    assert [job["error"] for job in summary(folder / "sweep")] == [None, "RunError: diverged"]
    assert "2.000" in out
    assert "diverged" in (folder / "sweep" / "summary.md").read_text()


def record(job, *overrides, kl=None, gold=None, code=0):
    return {
        "job": job,
        "overrides": ["rollout.batch_size=8", *overrides],
        "exit_code": code,
        "error": "RunError: no" if code else None,
        "phases": {"reward_model": 50.0, "train": 7.0, "report": 1.0},
        "metrics": {"tokens/policy": 2500},
        "before": {"forgetting_perplexity": 2.0},
        "after": {"kl_per_response": kl, "reward": {"gold_mean": gold}, "forgetting_perplexity": 1.5},
    }


RECORDS = [
    record(0, "arm=a", "seed=0", kl=1.0),
    record(1, "arm=a", "seed=1", kl=2.0),
    record(2, "arm=a", "seed=2", kl=6.0),
    record(3, "arm=b", "seed=0", kl=4.0),
    record(4, "arm=b", "seed=1", kl=math.nan),
    record(5, "arm=b", "seed=2", kl=100.0, code=1),
    record(6, "arm=c", "seed=0", code=1),
]


def test_arms_by_hand():
    a, b, c = arms(RECORDS)
    assert [(arm.overrides, arm.jobs, arm.finished) for arm in (a, b, c)] == [
        (("arm=a",), 3, 3),
        (("arm=b",), 3, 2),
        (("arm=c",), 1, 0),
    ]
    # 1, 2, 6: mean 3, s^2 = 14 / 2, t(2) = 4.3027
    assert (a.figures["KL"].mean, a.figures["KL"].n) == (3.0, 3)
    assert a.figures["KL"].half == pytest.approx(4.3027 * math.sqrt(7 / 3), abs=1e-4)
    assert (b.figures["KL"].mean, b.figures["KL"].half, b.figures["KL"].n) == (4.0, None, 1)
    assert set(c.figures.values()) == {None}
    assert a.figures["gold reward"] is None
    assert (a.figures["forgetting"].mean, a.figures["seconds"].mean, a.figures["tokens, k"].mean) == (-0.5, 8.0, 2.5)


def test_arms_are_named_by_what_differs():
    assert arm_names(arms(RECORDS)) == ("arm", ["a", "b", "c"])
    sizes = [record(n, f"method.group_size={size}", "seed=0") for n, size in enumerate((2, 4))]
    assert arm_names(arms(sizes)) == ("method.group_size", ["2", "4"])
    crossed = [
        record(n, f"reward={r}", f"method.lam={lam}") for n, (r, lam) in enumerate([("x", 1), ("y", 1), ("y", 2)])
    ]
    assert arm_names(arms(crossed)) == (
        "arm",
        ["reward=x method.lam=1", "reward=y method.lam=1", "reward=y method.lam=2"],
    )
    assert arm_names(arms(RECORDS[:3])) == ("arm", ["-"])


def test_the_table_as_markdown():
    lines = markdown(RECORDS).splitlines()
    assert lines[0] == "# Sweep of 7 jobs, 5 finished"
    assert "Common to all: `rollout.batch_size=8`" in lines
    start = lines.index("| arm | n | verdict | KL | forgetting | tokens, k | seconds |")  # nobody has a gold reward
    assert lines[start + 2 : start + 5] == [
        "| `a` | 3 | - | 3.000 ± 6.572 | -0.500 ± 0.000 | 2.500 ± 0.000 | 8.000 ± 0.000 |",
        "| `b` | 2 of 3 | 1 failed | 4.000 (n=1) | -0.500 ± 0.000 | 2.500 ± 0.000 | 8.000 ± 0.000 |",
        "| `c` | 0 of 1 | 1 failed | - | - | - | - |",
    ]
    assert lines[-2:] == [
        "- job 5, `rollout.batch_size=8 arm=b seed=2`: RunError: no",
        "- job 6, `rollout.batch_size=8 arm=c seed=0`: RunError: no",
    ]


def judged(job, verdicts, **record):
    return job | record | {"verdicts": [Verdict(level, what, 1.0, "k.ey").as_json() for level, what in verdicts]}


JUDGED = [
    judged(RECORDS[0], [(WARNING, "the KL is 10.5"), (NOTE, "too few: 4 prompts")]),
    judged(RECORDS[1], [(WARNING, "the KL is 1.2e+03")]),
    judged(RECORDS[2], [(NOTE, "too few: 5 prompts"), (WARNING, "it repeats itself")]),
    judged(RECORDS[3], [(NOTE, "too few: 4 prompts")]),
    judged(RECORDS[4], []),
    judged(RECORDS[5], [(ERROR, "nothing was learned")]),
    RECORDS[6],
]


def test_verdicts_are_counted_by_job_and_each_is_said_once_an_arm():
    lines = markdown(JUDGED).splitlines()
    assert [line.split(" | ")[2] for line in lines if line.startswith("| `")] == [
        "3 warned", "1 failed, 1 noted", "1 failed",
    ]  # fmt: skip
    start = lines.index("## Verdicts")
    assert lines[start + 2 : lines.index("## Failed") - 1] == [
        "- a: warning: the KL is 10.5 (turn k.ey), likewise in 1 more",
        "- a: note: too few: 4 prompts (turn k.ey), likewise in 1 more",
        "- a: warning: it repeats itself (turn k.ey)",
        "- b: note: too few: 4 prompts (turn k.ey)",
        "- b: error: nothing was learned (turn k.ey)",
    ]


def test_the_console_has_them_in_a_column_and_below():
    text = io.StringIO()
    print_table(JUDGED, Console(file=text, color_system=None, width=80))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert "verdict" in lines[1] + lines[2]
    assert [line.split()[:4] for line in lines if line.startswith(("a ", "c "))] == [
        ["a", "3", "3", "warned"],
        ["c", "0", "of", "1"],
    ]
    assert [f"- {line}" for line in lines[-5:]] == [line for line in markdown(JUDGED).splitlines() if "(turn" in line]


def test_a_sweep_in_which_nothing_went_wrong_has_no_such_column():
    fine = [judged(job, []) for job in RECORDS[:3]]
    assert "verdict" not in markdown(fine).lower()
    text = io.StringIO()
    print_table(fine, Console(file=text))
    assert "verdict" not in text.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_fits_a_terminal_of_80_columns(terminal):
    full = {
        "reward": {"gold_mean": -0.5, "proxy_mean": 0.25},
        "win_rate": {"mean": 0.5},
        "verbosity": {"mean_tokens": 31},
    }
    both = [
        r | {"after": r["after"] | full} for r in (record(0, "arm=ppo_sparse", kl=1.0), record(1, "arm=dpo", kl=2.0))
    ]
    text = io.StringIO()
    print_table(both, Console(file=text, force_terminal=terminal, color_system=None, width=80))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert "gold  proxy" in lines[1]
    assert lines[4].split() == "ppo_sparse 1 -0.500 0.250 1.000 0.500 -0.500 31.00 2.500 8.000".split()


def test_a_sweep_without_figures_has_no_table():
    text = io.StringIO()
    print_table([RECORDS[-1]], Console(file=text))
    assert text.getvalue() == ""


# The budget ----------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_the_update_that_spends_the_policy_tokens(tmp_path):
    trainer, unlimited = tiny.loop(tmp_path / "a", tiny.config(max_steps=6))
    trainer.train()
    tokens = [int(n) for n in unlimited.column("tokens/policy")]
    assert trainer.stopped is None and len(tokens) == 6
    # (budget, steps, whether the budget ended the run): at a step's own count, a token past it, and at the last step
    for budget, steps, stops in [(tokens[2], 3, True), (tokens[2] + 1, 4, True), (tokens[5], 6, False)]:
        path = tmp_path / str(budget)
        trainer, limited = tiny.loop(path, tiny.config(max_steps=6, max_policy_tokens=budget))
        trainer.train()
        assert limited.column("tokens/policy") == tokens[:steps]
        assert trainer.stopped == (
            f"{tokens[steps - 1]} policy tokens reach max_policy_tokens={budget}" if stops else None
        )
        assert [step for step, _ in limited.checkpoints] == [steps]
    again, recorder = tiny.loop(path.parent / str(tokens[2]), tiny.config(max_steps=6, max_policy_tokens=tokens[2]))
    again.resume(path.parent / str(tokens[2]) / "ppo_step_3")
    again.train()
    assert recorder.records == [] and again.stopped is not None  # spent before it went on
