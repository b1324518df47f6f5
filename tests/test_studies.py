"""The studies' computations by hand, and what their runner does with jobs that are done, killed or missing."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from align.cli.compose import composed
from align.config.methods import PPOConfig
from align.numbers import Interval
from align.run.runner import run
from tests.algorithms import runs as tiny_runs

STUDIES = Path(__file__).parents[1] / "scripts" / "studies"


def module(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        return importlib.import_module(name)


VOLATILE = ("time/", "throughput/", "memory/")
analysis, runs, study = module("analysis"), module("runs"), module("study")


@pytest.mark.parametrize(
    ("level", "expected"), [(0.0, 0.0), (0.5, 5.0), (1.0, 10.0), (1.5, 27.5), (2.0, 30.0), (2.1, None)]
)
def test_where_a_curve_first_reaches_a_level(level, expected):
    """It rises to 1, falls to .6, and rises to 2."""
    assert analysis.first_reach([0, 10, 20, 30], [0, 1, 0.6, 2], level) == (
        None if expected is None else pytest.approx({1.5: 20 + 10 * 0.9 / 1.4}.get(level, expected))
    )


def test_gold_at_a_matched_kl_is_read_where_kl_first_gets_there():
    kl, gold = [0.0, 2.0, 1.0, 4.0], [0.1, 0.5, 0.9, 0.2]
    assert analysis.value_when(kl, gold, 1.0) == pytest.approx(0.3)  # on the way up, not on the way back
    assert analysis.value_when(kl, gold, 3.0) == pytest.approx(0.9 + (0.2 - 0.9) * 2 / 3)
    assert analysis.value_when(kl, gold, 5.0) is None


def test_level():
    assert analysis.level_of(0.2, 0.6) == pytest.approx(0.58)
    assert analysis.level_of(0.2, 0.1, 0.5) == pytest.approx(0.15)


def test_gaos_form_is_found_again():
    alpha, beta = 0.7, 0.25
    d = [0.0, 0.3, 0.8, 1.0, 1.7, 2.5, 4.0]
    gain = [0.0] + [x * (alpha - beta * math.log(x)) for x in d[1:]]
    fit = analysis.fit_overoptimisation(d, gain)
    assert (fit.alpha, fit.beta, fit.r2) == pytest.approx((alpha, beta, 1.0))
    assert [fit(x) for x in d] == pytest.approx(gain)
    top = fit.peak
    assert top == pytest.approx(math.exp(alpha / beta - 1))
    assert fit(top) > max(fit(top * 0.99), fit(top * 1.01))
    assert analysis.Fit(0.5, 0.0, 1.0).peak is None


def test_the_fit_is_the_least_squares_one():
    d, gain = [0.5, 1.0, 1.5, 2.0, 3.0], [0.3, 0.6, 0.55, 0.8, 0.5]
    fit = analysis.fit_overoptimisation(d, gain)

    def loss(alpha: float, beta: float) -> float:
        return sum((y - analysis.Fit(alpha, beta, 0)(x)) ** 2 for x, y in zip(d, gain, strict=True))

    best = loss(fit.alpha, fit.beta)
    for step in (0.01, -0.01):
        assert loss(fit.alpha + step, fit.beta) > best < loss(fit.alpha, fit.beta + step)
    mean = sum(gain) / len(gain)
    assert fit.r2 == pytest.approx(1 - best / sum((y - mean) ** 2 for y in gain))


@pytest.mark.parametrize("d", [[], [0.0, 0.0], [1.5], [1.5, 1.5, 0.0]])
def test_too_little_for_a_fit(d):
    with pytest.raises(ValueError, match="two different"):
        analysis.fit_overoptimisation(d, [0.1] * len(d))


def test_differences_are_paired_by_seed():
    found = analysis.paired({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.5, 1: 1.0, 3: 7.0})
    assert (found.mean, found.n) == (0.75, 2)
    assert analysis.paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("difference", "claimed", "expected"),
    [
        (Interval(0.2, 0.1, 5), 1, "borne out"),
        (Interval(0.2, 0.1, 5), -1, "contradicted"),
        (Interval(-0.2, 0.1, 5), -1, "borne out"),
        (Interval(-0.2, 0.3, 5), -1, "undecided (the interval holds 0)"),
        (Interval(0.2, None, 1), 1, "not measured (fewer than two seeds)"),
        (None, 1, "not measured (fewer than two seeds)"),
    ],
)
def test_verdicts(difference, claimed, expected):
    assert analysis.verdict(difference, claimed) == expected


# --- runs that are done, killed or missing ----------------------------------------------------------------------------

CELL = runs.Cell("report", "sparse", "method.learning_rate=1e-3", ("method=ppo", "max_steps=4"), (0, 1, 2, 3), "long")


def leave(folder: Path, state: str, gold: float = 0.5) -> None:
    """What a run leaves that has not begun to train, was killed, or finished after an evaluation in between."""
    folder.mkdir(parents=True)
    if state == "missing":
        return
    (folder / "config.yaml").write_text("rollout: {batch_size: 16}\n")
    (folder / "run.json").write_text(json.dumps({"status": "finished" if state == "finished" else "running"}))
    figures = {"eval/reward/proxy_mean": 2 * gold, "eval/kl_per_response": 1.5, "eval/verbosity/mean_tokens": 9.0}
    records: list[dict] = [{"step": 0, "phase": "before", "eval/reward/gold_mean": 0.1, **figures}]
    for step in (1, 2, 3, 4):
        rollout, fidelity = (step - 1) // 2, {"credit/fidelity_long": 0.25 * ((step + 1) // 2)}
        records.append({"step": step, "rollout": rollout, "tokens/policy": 100.0 * step, **fidelity})
        if step == 2:
            records.append({"step": 2, "phase": "during", "eval/reward/gold_mean": 0.3, **figures})
    records.append({"step": 4, "phase": "after", "eval/reward/gold_mean": gold, **figures})
    (folder / "log_history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def folder(tmp_path):
    for seed, state in enumerate(("finished", "started", "missing")):
        leave(CELL.run(tmp_path, seed), state)
    return tmp_path


def test_finished_runs_stay_killed_ones_are_resumed_and_the_rest_is_one_sweep(folder):
    resumed, sweep = runs.commands(CELL, folder)
    assert resumed == [f"resume={CELL.run(folder, 1)}"]
    place = folder / "report-long-sparse-method.learning_rate_1e-3"
    assert sweep == ["-m", "method=ppo", "max_steps=4", "seed=2,3", f"hydra.sweep.dir={place}",
                     "hydra.sweep.subdir=seed_${seed}"]  # fmt: skip
    (CELL.run(folder, 1) / "run.json").write_text(json.dumps({"status": "finished"}))
    CELL.run(folder, 2).rmdir()
    for seed in (2, 3):
        leave(CELL.run(folder, seed), "finished")
    assert runs.commands(CELL, folder) == []


def test_runs_of_other_settings_are_not_mixed_in(folder):
    (CELL.folder(folder) / "cell.json").write_text(json.dumps(["method=ppo", "max_steps=5"]))
    with pytest.raises(SystemExit, match="other settings"):
        runs.commands(CELL, folder)


def test_what_is_read_of_a_run(folder):
    found = runs.points(CELL, folder, fidelity="credit/fidelity_long")
    assert [(p.phase, p.step, p.tokens, p.responses, p.gold) for p in found] == [
        ("before", 0, 0, 0, 0.1),
        ("during", 2, 200, 16, 0.3),
        ("after", 4, 400, 32, 0.5),
    ]
    assert [p.fidelity for p in found] == [None, None, 0.25]  # of the first rollout
    assert (found[0].arm, found[0].group, found[0].seed, found[2].proxy, found[2].kl) == ("sparse", "long", 0, 1.0, 1.5)
    assert list(runs.at_end(found)) == [0]
    assert [p.step for p in runs.curves(found)[0]] == [0, 2, 4]
    runs.write_points(folder / "points.jsonl", found)
    assert [json.loads(line)["gold"] for line in (folder / "points.jsonl").read_text().splitlines()] == [0.1, 0.3, 0.5]


# --- fairness, tables and figures -------------------------------------------------------------------------------------


def made(plan: Any, stage: str, arm: str, group: str, seed: int, setting: str, level: float) -> list:
    """A run whose gold reward rises to `level`, over tokens and KL."""
    shared = {"study": plan.name, "stage": stage, "group": group, "arm": arm, "setting": setting, "seed": seed}
    steps = [(0, "before"), (10, "during"), (20, "during"), (30, "after")]
    return [
        runs.Point(**shared, phase=phase, step=step, tokens=1000 * step, gold=0.3 + (level - 0.3) * step / 30,
                   proxy=step / 30 + seed / 100, kl=step / 10 + seed / 50, length=30.0, responses=16 * step,
                   fidelity=0.5 if phase == "after" else None)
        for step, phase in steps
    ]  # fmt: skip


PLANS = ("credit", "overoptimisation", "group_size")


@pytest.mark.parametrize("name", PLANS)
def test_arms_get_equal_settings_and_what_is_reported_was_not_tuned_on(name):
    plan = module(name).PLAN
    tuned = study.tuning_cells(plan)
    per_arm = {(c.group, c.arm): 0 for c in tuned}
    for cell in tuned:
        per_arm[cell.group, cell.arm] += len(cell.seeds)
        assert cell.overrides.count("data.held_out_where.split=tune") == 1
    assert len(set(per_arm.values())) <= 1
    every = []
    for cell in tuned:
        level = 0.5 + 0.1 * plan.settings.index(cell.setting)
        for seed in cell.seeds:
            every += made(plan, "tune", cell.arm, cell.group, seed, cell.setting, level)
    chosen = runs.best_setting(every)
    assert set(chosen.values()) <= {plan.settings[-1]}
    reported = study.report_cells(plan, chosen)
    assert len(reported) == len(plan.arms) * len(plan.groups)
    for cell in reported:
        assert "data.held_out_where.split=report" in cell.overrides
        assert not set(cell.seeds) & set(study.TUNING_SEEDS)
        keys = [word.partition("=")[0] for word in cell.overrides]
        assert len(keys) == len(set(keys))
    assert len({cell.folder(Path("x")) for cell in tuned + reported}) == len(tuned + reported)


@pytest.mark.parametrize("name", PLANS)
def test_every_cell_is_a_run_that_the_command_line_takes(name):
    plan = module(name).PLAN
    chosen = {(group.name, arm.name): plan.settings[0] for group in plan.groups for arm in plan.arms}
    for cell in [*study.tuning_cells(plan)[:1], *study.report_cells(plan, chosen)]:
        config = composed(cell.overrides)
        assert config.data.held_out_where["split"] == cell.stage
        assert config.evaluation.num_prompts == 256


@pytest.mark.parametrize("name", PLANS)
def test_a_report_of_made_up_runs(name, tmp_path):
    """Every arm a little better than the one before: tables hold every arm, claims come out as the numbers say."""
    script = module(name)
    plan = script.PLAN
    found = [
        point
        for group in plan.groups
        for i, arm in enumerate(plan.arms)
        for seed in range(3)
        for point in made(plan, "report", arm.name, group.name, seed, plan.settings[0], 0.6 + 0.02 * i + 0.001 * seed)
    ]
    text, panels = script.report(plan, found)
    if name == "credit":
        rows = {
            line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if line.startswith("| ")
        }
        assert rows["uniform"][4] == "+0.020 ± 0.000" and rows["sparse"][4] == "-"
        assert rows["sparse"][8] == "28.5 (3 of 3)"  # 95% of a straight rise over 30k tokens
        assert "gold +0.020 ± 0.000, contradicted" in text and "gold +0.080 ± 0.000, borne out" in text
        assert "against sparse credit +0.040 ± 0.000 (n=3)" in text and "only, +0.060 ± 0.000 (n=3) with" in text
        assert "either: gold +0.020 ± 0.000 (n=3) where" in text  # against gold_sparse, not sparse
    if name == "group_size":  # four arms later, and each 0.02 better
        assert "gold at the end: +0.080 ± 0.000 in groups of 2, +0.080" in text
        assert "groups of 16 against 2: gold +0.060 ± 0.000" in text
    for arm in plan.arms:
        assert arm.name.partition("_")[0] in text
    assert "nan" not in text
    assert study.settings_note(plan, {("", "x"): "y"}).count("`") > 10
    pytest.importorskip("matplotlib")
    module("output").draw(tmp_path / "a.svg", panels)
    module("output").draw(tmp_path / "b.svg", panels)
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text() and panels[0].title in drawn


def test_a_penalty_against_stopping_early():
    """Unpenalised runs gain .1 a nat. Penalised ones end at 2 nats with .3, .32 and .34: .1 to .14 more."""
    script = module("overoptimisation")

    def run(kls: list[float], golds: list[float]) -> list:
        base = made(script.PLAN, "report", "single_0", "", 0, "x=1", 0.5)[0]
        return [
            dataclasses.replace(base, kl=kl, gold=gold, step=i)
            for i, (kl, gold) in enumerate(zip(kls, golds, strict=True))
        ]

    free = {seed: run([0.0, 4.0], [0.2, 0.6]) for seed in range(3)}
    held = {seed: run([0.0, 2.0], [0.2, 0.5 + 0.02 * seed]) for seed in range(3)}
    (line,) = script.frontier("single", {"0": free, "0.2": held})
    assert "gold +0.120 ± 0.050" in line and line.endswith("is contradicted.")
    even = {seed: run([0.0, 2.0], [0.2, 0.35 + 0.05 * seed]) for seed in range(3)}
    (line,) = script.frontier("single", {"0": free, "0.2": even})
    assert "0.000 ± 0.124" in line and line.endswith("is not contradicted.")
    (line,) = script.frontier("single", {"0": free, "0.2": {0: held[0]}})
    assert "not measured" in line


def test_what_is_stored_counts_as_done_if_the_same_settings_made_it(tmp_path, monkeypatch):
    """Short responses and one of two seeds of the long ones are there; an arm and a setting are no more."""
    pytest.importorskip("matplotlib")
    groups = (study.Group("short", ()), study.Group("long", ()))
    plan = study.Plan("parts", (study.Arm("a", (), 2),), groups, ("x=1",), ())

    def of(group: str, seeds=(0, 1), arm: str = "a", level: float = 0.5, common: str = "") -> list:
        cell = study._cell(plan, "report", study.Group(group, ()), study.Arm(arm, ()), "x=1", (0, 1))
        by = dataclasses.replace(cell, overrides=(*cell.overrides, common)) if common else cell
        points = [p for seed in seeds for p in made(plan, "report", arm, group, seed, "x=1", level)]
        return [dataclasses.replace(p, made_by=by.made_by) for p in points]

    out, seen, ran = tmp_path / "parts.jsonl", [], []
    before = of("short") + of("long", seeds=(1,), level=0.2)
    runs.write_points(out, before + of("short", arm="gone") + of("short", common="max_steps=9"))
    now = of("long", seeds=(0,), level=0.6)

    def run_cells(cells, *_, **__):
        ran.extend((cell.group, cell.seeds) for cell in cells)
        return []

    monkeypatch.setattr(study, "run_cells", run_cells)
    monkeypatch.setattr(study, "points", lambda cell, *_, **__: now)

    def report(plan, found):
        seen[:] = found
        return "# parts\n", [module("output").Panel("t", "x", "y", [])]

    words = ["--out", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert study.conduct(plan, report, words) == 0
    assert ran == [("long", (0,))]
    assert seen == before + now == runs.read_points(out)
    assert study.conduct(plan, report, words) == 0
    assert ran == [("long", (0,))] and seen == before + now  # all is done
    assert runs.read_points(tmp_path / "none.jsonl") == []


def test_what_was_tuned_is_kept_though_nothing_is_reported_yet(tmp_path, monkeypatch):
    plan = study.Plan("parts", (study.Arm("a", (), 2),), (study.Group("", ()),), ("x=1", "x=2"), ())
    tuned = {
        cell.setting: [
            dataclasses.replace(p, made_by=cell.made_by) for p in made(plan, "tune", "a", "", 100, cell.setting, level)
        ]
        for cell, level in zip(study.tuning_cells(plan), (0.5, 0.6), strict=True)
    }
    monkeypatch.setattr(study, "run_cells", lambda *_, **__: [])
    monkeypatch.setattr(study, "points", lambda cell, *_, **__: tuned[cell.setting] if cell.stage == "tune" else [])
    assert study.conduct(plan, None, ["--out", str(tmp_path), "--runs", str(tmp_path / "runs")]) == 1
    assert runs.read_points(tmp_path / "parts.jsonl") == tuned["x=1"] + tuned["x=2"]


def test_a_setting_that_has_lost_since_is_reported_no_more(capsys):
    plan = study.Plan("parts", (study.Arm("a", (), 2),), (study.Group("", ()),), ("x=1", "x=2"), ())
    levels = {"x=1": 0.5, "x=2": 0.6}
    tuned = [p for s, level in levels.items() for p in made(plan, "tune", "a", "", 100, s, level)]
    first, second = (made(plan, "report", "a", "", 0, s, 0.7) for s in levels)
    assert study.chosen_alone(tuned + first + second) == tuned + second
    assert "x=1" in capsys.readouterr().out
    assert study.chosen_alone(tuned + second) == tuned + second and capsys.readouterr().out == ""


def test_a_folder_of_other_settings_is_neither_run_nor_read(tmp_path):
    cell = runs.Cell("report", "a", "", ("max_steps=5", "evaluation.every_steps=2"), (0,))
    cell.folder(tmp_path).mkdir()
    saved = cell.folder(tmp_path) / runs.OVERRIDES
    saved.write_text(json.dumps(["max_steps=5", "evaluation.every_steps=0"]))
    assert runs.points(cell, tmp_path) == [] and runs.commands(cell, tmp_path)
    saved.write_text(json.dumps(["max_steps=6", "evaluation.every_steps=2"]))
    for read in (runs.points, runs.commands):
        with pytest.raises(SystemExit, match="other settings"):
            read(cell, tmp_path)
    assert runs.shaping(["evaluation.every_steps=2", "callbacks=[early_stopping]"])[0] == "evaluation.every_steps=2"


def test_tuning_runs_are_judged_at_their_end_alone_and_known_by_what_shapes_them():
    plan = dataclasses.replace(module("credit").PLAN, overrides=("method=ppo", "evaluation.every_steps=10"))
    (tuned, *_), (reported, *_) = study.tuning_cells(plan), study.report_cells(plan, {("short", "sparse"): "x=1"})
    assert [w for w in tuned.overrides if "every_steps" in w] == ["evaluation.every_steps=0"]
    assert [w for w in reported.overrides if "every_steps" in w] == ["evaluation.every_steps=10"]

    def with_word(*words: str) -> str:
        return dataclasses.replace(reported, overrides=(*reported.overrides, *words)).made_by

    assert with_word("checkpoint.every_steps=5", "evaluation.every_steps=3") == reported.made_by
    assert with_word("max_steps=5") != reported.made_by
    assert with_word("evaluation.num_prompts=5") != reported.made_by


def test_what_is_measured_in_between_changes_no_figure(tmp_path):
    """OBSERVES says so: a run evaluated and stored at every step learns and ends as one that is left alone."""
    data = tiny_runs.write_data(tmp_path / "data")
    method = PPOConfig(minibatch_size=4)

    def figures(name: str, every: int) -> tuple[list, str]:
        config = tiny_runs.config(method, data, max_steps=4, evaluation={"every_steps": every})
        config.checkpoint.every_steps = every
        run(config, tmp_path / name, say=lambda line: None)
        records = [r for r in tiny_runs.lines(tmp_path / name / "log_history.jsonl") if r.get("phase") != "during"]
        kept = [{k: v for k, v in r.items() if k != "seconds" and not k.startswith(VOLATILE)} for r in records]
        return kept, json.dumps(json.loads((tmp_path / name / "evaluation.json").read_text())["after"])

    watched, alone = figures("watched", 1), figures("alone", 0)
    assert len(watched[0]) == 6 and watched == alone
