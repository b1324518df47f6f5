import math
import random
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from align import metrics
from align.metrics import METRICS, Tally


def test_token_mean_does_not_depend_on_the_split():
    rng = random.Random(0)
    rows = [[rng.gauss(0, 1) for _ in range(rng.randint(1, 9))] for _ in range(12)]
    tokens = [v for row in rows for v in row]
    for cuts in ([12], [1] * 12, [5, 7], [3, 1, 8]):
        tally, at = Tally(), 0
        for cut in cuts:
            batch = [v for row in rows[at : at + cut] for v in row]
            tally.add("policy/entropy", sum(batch), len(batch))
            at += cut
        assert tally.result()["policy/entropy"] == pytest.approx(statistics.fmean(tokens), abs=1e-12)
    mean_of_row_means = statistics.fmean(statistics.fmean(row) for row in rows)
    assert abs(mean_of_row_means - statistics.fmean(tokens)) > 1e-3  # the mistake that the split would show


def test_ranks_merge_to_the_whole():
    values = [0.5, -3.0, 2.25, 8.0, 1.0, 1.0, -0.125]
    names = ("advantage/mean", "advantage/std", "advantage/min", "advantage/max")
    whole, left, right = Tally(), Tally(), Tally()
    for name in names:
        whole.observe(name, values)
        left.observe(name, values[:2])
        right.observe(name, values[2:])
    left.merge(right)
    assert left.result() == pytest.approx(whole.result(), abs=1e-12)
    assert whole.result() == pytest.approx(
        {
            "advantage/mean": statistics.fmean(values),
            "advantage/std": statistics.pstdev(values),
            "advantage/min": -3.0,
            "advantage/max": 8.0,
        },
        abs=1e-12,
    )


def test_deviation_of_values_far_from_zero():
    tally = Tally()
    for value in (1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16):
        tally.observe("reward/score_std", [value])
    assert tally.result()["reward/score_std"] == pytest.approx(math.sqrt(22.5), rel=1e-9)


def test_last_and_unknown_and_wrong_use():
    tally = Tally()
    tally.add("policy/learning_rate", 1e-3)
    tally.add("policy/learning_rate", 5e-4)
    assert tally.result() == {"policy/learning_rate": 5e-4}
    with pytest.raises(KeyError, match="policy/learning_rates"):
        tally.add("policy/learning_rates", 1.0)
    with pytest.raises(KeyError, match="reward/part_"):
        tally.add("reward/part_", 1.0)
    with pytest.raises(ValueError, match="observe"):
        tally.add("reward/score_std", 1.0)
    with pytest.raises(ValueError, match="add"):
        tally.observe("kl/coef", [1.0])


def test_nan_is_kept_and_empty_means_are_nan():
    tally = Tally()
    tally.observe("policy/ratio_max", [1.0, math.nan, 2.0])
    tally.observe("advantage/min", [math.nan, -1.0])
    tally.observe("advantage/std", [math.inf, 1.0])
    tally.add("policy/loss", 0.0, 0)
    assert all(math.isnan(v) for v in tally.result().values())


def test_pop_starts_afresh():
    tally = Tally()
    tally.add("reward/score_mean", 6.0, 4)
    tally.add("reward/part_length", 2.0, 4)
    tally.observe("response/length_std", [3, 5])
    assert tally.pop() == {"reward/score_mean": 1.5, "reward/part_length": 0.5, "response/length_std": 1.0}
    assert tally.result() == {}


def test_compare_names_what_is_missing_and_extra():
    record = {n: 0.0 for n, m in METRICS.items() if "ppo" in m.methods and not m.optional}
    record |= dict.fromkeys(metrics.RECORD_FIELDS, 0)
    record["reward/part_length"] = 0.1
    assert metrics.compare(record, "ppo") == (set(), set())
    del record["kl/coef"]
    record["policy/speling"] = 1.0
    record["eval/perplexity"] = 1.0
    assert metrics.compare(record, "ppo") == ({"kl/coef"}, {"policy/speling", "eval/perplexity"})
    assert metrics.compare({"step": 1, "policy/loss": 0.0}, "other")[1] == {"policy/loss"}


def test_flatten_leaves_numbers_only():
    summary = {
        "perplexity": 3,
        "reward": {"gold_mean": None, "proxy_mean": 0.5},
        "win_rate": {"judge": "gold", "low": 0.4},
    }
    flat = metrics.flatten(summary)
    assert flat == {"eval/perplexity": 3.0, "eval/reward/proxy_mean": 0.5, "eval/win_rate/low": 0.4}
    assert all(metrics.lookup(name).level == "evaluation" for name in flat)
    assert metrics.lookup("eval/gold_by/short").unit == "reward"


def test_headline_is_in_the_table():
    assert all(name in METRICS for name, _ in metrics.HEADLINE)


def test_repeatable_drops_clocks_only():
    record = {"step": 1, "seconds": 2.0, "time/rollout": 1.0, "memory/peak_mib": 5.0, "kl/coef": 0.1}
    assert metrics.repeatable(record) == {"step": 1, "kl/coef": 0.1}


def script():
    return runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "metrics_page.py"))


def test_markdown_has_a_row_of_six_cells_for_every_metric():
    markdown = script()["markdown"]()
    lines = markdown.splitlines()
    assert len(lines) == 2 + len(METRICS)
    for line in lines:
        assert line.replace("\\|", "").count("|") == 7
    assert "\\|log pi while sampling" in markdown


def test_the_page_is_the_tables():
    page = script()
    assert page["PAGE"].read_text() == page["page"](), "run: python scripts/metrics_page.py"


def test_imports_no_torch():
    code = (
        "import sys, align.metrics, align.callbacks.jsonl, align.callbacks.progress; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
