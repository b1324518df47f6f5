import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from align.errors import InputError
from align.report import write_report
from align.report.__main__ import main
from align.report.jobs import differences
from align.report.load import load_run
from align.report.tables import headline
from tests.report.conftest import write_run


class Page(HTMLParser):
    """Tags, visible text, and the JSON islands of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.data, self._open = [], "", {}, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = dict(attrs).get("id", tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._open = None

    def handle_data(self, data):
        if self._open is None:
            self.text += " " + data
        else:
            self.data[self._open] = self.data.get(self._open, "") + data

    @property
    def words(self):
        return " ".join(self.text.split())

    @property
    def charts(self):
        packed = json.loads(self.data["data-charts"])
        for chart in packed["charts"]:
            for curve in chart["curves"]:
                curve["x"] = packed["xs"][curve["x"]]
        return {chart["title"]: chart for chart in packed["charts"]}

    @property
    def completions(self):
        return json.loads(self.data["data-completions"])


@pytest.fixture(scope="module")
def html(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def compared(sweep):
    return Page(write_report(sweep).read_text())


# One run -------------------------------------------------------------------------------------------------------------


def test_headline_holds_the_figures_of_the_evaluation(page):
    assert "PPO, reward model with attention credit" in page.words
    assert re.search(
        r"gold reward 0\.200 0\.500 \+0\.300 0\.\d{3} to 0\.\d{3} ", page.words
    )  # of the samples' own change
    assert "win rate against the start 0.500 0.700 0.600 to 0.800 +0.200 0.100 to 0.300" in page.words
    assert "response length, tokens 20.00 12.00 -8.000" in page.words
    assert "KL to the reference, nats/response 0.000 1.250 1.086 to 1.414 +1.250" in page.words  # 1.25 ± 1.645 * 0.1
    assert "Intervals are of 90%" in page.words


def test_differences_of_ends_in_older_files_are_no_interval_of_a_change(folder):
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert any(row.moved for row in headline(evaluation))
    del evaluation["settings"]["delta"]
    assert not any(row.moved for row in headline(evaluation))


def test_says_how_to_repeat_the_run(page):
    assert "python -m align method=ppo 'data.path=my file.jsonl'" in page.text
    assert "20 of 20" in page.text
    assert "train 1:01" in page.text


def test_curves_are_those_of_the_records(page):
    charts = page.charts
    assert list(charts)[:13] == [
        *("Gold reward against KL", "Proxy reward against KL", "Response lengths"),
        *("Reward", "KL to the reference", "Advantage", "Advantage: spread", "Critic: explained variance"),
        *("Critic: value", "Response length", "Entropy", "Held-out proxy reward", "Held-out gold reward"),
    ]
    score, total = charts["Reward"]["curves"]
    assert (score["label"], total["label"]) == ("score", "with KL penalty")
    assert score["x"]["step"] == list(range(1, 21))
    assert score["y"] == [s / 10 for s in range(1, 21)]
    assert charts["Entropy"]["curves"][0]["y"][6] is None  # NaN of update 7
    held_out = charts["Held-out proxy reward"]["curves"][0]
    assert held_out["x"]["step"] == [0, 10, 20]
    assert held_out["x"]["seconds"] == [0, 10, 20]
    assert held_out["y"] == [0.1, 0.35, 0.6]
    assert charts["Gold reward against KL"]["curves"][0]["y"] == [0.2, 0.35, 0.5]
    assert "policy/clip_fraction" in charts
    assert not any(t.startswith("time/") for t in charts)


def test_what_a_model_wrote_stays_text(html, page):
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "49" not in page.data["data-completions"]
    assert [t for t, _ in page.tags].count("script") == 3
    card = page.completions["cards"][3]
    assert card["sides"]["0"]["text"].startswith("</script><script>alert(1)</script>")
    assert sum(card["start"]["pieces"]) == len(card["start"]["text"])
    assert "innerHTML" not in page.data["script"]


def test_page_is_self_contained(html, page):
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href") and v[0] != "#"]
    assert links == ["data:,"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert "url(" not in html
    assert "@import" not in html


def test_unfinished_and_failed_runs_have_a_report(tmp_path):
    (tmp_path / "config.yaml").write_text("method:\n  name: ppo\n")
    page = Page(write_report(tmp_path).read_text())
    assert "This run has no evaluation yet." in page.text
    assert "unfinished: status unknown, no update yet: it still runs, or was killed" in page.words
    assert "No update was recorded." in page.text
    (tmp_path / "run.json").write_text(json.dumps({"status": "failed", "error": "RunError: <b>bad</b>"}))
    (tmp_path / "log_history.jsonl").write_text('{"step": 1, "reward/score_mean": 0.5, "event/bad_steps": 2.0}\n{"st')
    (tmp_path / "evaluation.json").write_text(json.dumps({"before": {"cut_rate": 1.0}, "after": None}))
    page = Page(write_report(tmp_path).read_text())
    assert "RunError: <b>bad</b>" in page.text
    assert "2 updates or rollouts were not finite" in page.text
    assert re.search(r"cut at the length limit\s+1\.000\s+-\s+-", page.text)


# Several -------------------------------------------------------------------------------------------------------------


def test_a_sweep_has_its_arms_with_intervals(compared):
    assert "5 runs: method ppo, dpo, sft" in compared.words
    assert "1 of 5 failed" in compared.words
    # gold .2 + .3 (1 + seed / 100): .5, .503; t(1) s / sqrt(2) = 12.7062 * .0015
    assert "ppo 2 1 noted 0.502 ± 0.019" in compared.words and "dpo 2 - 0.50" in compared.words
    assert "sft 0 of 1 1 failed -" in compared.words
    assert "note , method=ppo: too few (turn evaluation.num_prompts)" in compared.words
    assert "ppo 1 finished note: evaluation.num_prompts 20" in compared.words  # among all runs
    # gold, proxy, KL; the peak's three figures, which no start model has; win rate
    assert "start model 0.200 0.100 0.000 - - - 0.500" in compared.words
    assert "RunError: <b>diverged</b>" in compared.text
    assert "python -m align method=ppo 'data.path=my file.jsonl'" in compared.text


def test_methods_are_overlaid_and_what_one_does_not_measure_is_a_gap(compared):
    reward, entropy = compared.charts["Reward"], compared.charts["Advantage"]
    assert [c["label"] for c in reward["curves"]] == ["ppo"]  # DPO draws no rollouts
    assert "not measured by dpo" in compared.words
    ppo = reward["curves"][0]
    assert ppo["y"][0] == pytest.approx(0.15)
    assert (ppo["low"][0], ppo["high"][0]) == (0.1, 0.2)
    assert ppo["x"]["seconds"][0] == 1.5
    assert len(entropy["curves"]) == 1
    held_out = compared.charts["Held-out proxy reward"]
    assert [(c["label"], c["colour"], len(c["y"])) for c in held_out["curves"]] == [("ppo", 0, 3), ("dpo", 1, 3)]
    dpo = compared.charts["DPO: loss"]["curves"]
    assert [(c["label"], c["colour"]) for c in dpo] == [("dpo", 1)]


def test_frontier_forgetting_and_lengths(compared):
    trails = compared.charts["Gold reward against KL"]["curves"]
    assert [(c["label"], c["colour"]) for c in trails] == [
        *(("ppo, seed 0", 0), ("ppo, seed 1", 0), ("dpo, seed 0", 1), ("dpo, seed 1", 1)),
    ]
    assert next(iter(trails[1]["x"].values())) == [0, 0.625, pytest.approx(1.2625)]
    assert [c["y"][0] for c in compared.charts["Forgetting"]["curves"]] == [0, 0]
    start, ppo, _dpo = compared.charts["Response lengths"]["curves"]
    assert (start["label"], start["colour"]) == ("start model", -1)
    assert max(ppo["y"]) == 1.0  # all responses have three tokens


def test_probes_are_a_heat_map(compared, tmp_path):
    assert "perturbation ppo proxy gold pays" in compared.words
    # Of two seeds: mean ± 12.7062 |a - b| / 2. pays: the share of prompts on which proxy rises and gold does not.
    assert "prompt: typos -0.325 ± 0.318 +0.000 ± 0.000 0.000 ± 0.000" in compared.words
    assert "response: filler +0.450 ± 0.635 -0.100 ± 0.000 1.000 ± 0.000" in compared.words
    assert "response: truncation -0.950 ± 0.635 -0.325 ± 0.953 0.000 ± 0.000" in compared.words
    cells = [(attrs.get("class"), attrs["style"]) for tag, attrs in compared.tags if tag == "td" and "style" in attrs]
    assert cells == [
        *(("minus", "--v: 0.342"), ("plus", "--v: 0.000"), ("pays", "--v: 0.000")),
        *(("plus", "--v: 0.474"), ("minus", "--v: 0.308"), ("pays", "--v: 1.000")),
        *(("minus", "--v: 1.000"), ("minus", "--v: 1.000"), ("pays", "--v: 0.000")),
    ]
    assert "What raises proxy most, on average: ppo response: filler (+0.450)." in compared.words
    one = Page(write_report(write_run(tmp_path / "one", seed=0, probed=True)).read_text())
    assert "response: filler +0.400 ± 0.100 -0.100 ± 0.100 1.000" in one.words  # se of .3 and .5, of -.2 and 0


def test_every_run_stands_beside_the_start_model(compared):
    shown = compared.completions
    assert [(r["name"], r["arm"]) for r in shown["runs"]] == [
        *(("ppo, seed 0", 0), ("ppo, seed 1", 0), ("dpo, seed 0", 1), ("dpo, seed 1", 1)),
    ]
    assert [sorted(card["sides"]) for card in shown["cards"]] == [["0", "1", "2", "3"]] * 12
    assert shown["note"] == ""


def test_a_sweep_of_twelve_long_runs_stays_below_3_mb(tmp_path):
    for job in range(12):
        path = write_run(tmp_path / str(job), steps=250, seed=job % 3, credit=f"c{job // 3}")
        with open(path / "evaluation_samples.jsonl") as file:
            rows = [json.loads(line) for line in file]
        text = "many words of a long response " * 40
        long = {"response": text, "pieces": re.findall(r"\S+ ?", text), "token_rewards": [0.123] * 240}
        many = [row | long | {"prompt_id": n, "prompt": f"p{n}"} for n in range(128) for row in (rows[0], rows[-1])]
        (path / "evaluation_samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    html = write_report(tmp_path).read_text()
    assert 500_000 < len(html.encode()) < 3_000_000
    page = Page(html)
    assert "12 runs: reward.credit c0, c1, c2, c3" in page.words
    assert len(page.completions["cards"]) >= 24
    assert re.search(r"To keep the page small: \d+ of 128 prompts, evenly spaced", page.words)
    assert "250 updates are drawn as 240 points" in page.words


def test_arms_are_told_apart_by_as_few_keys_as_it_takes():
    def config(method, seed, **more):
        return {"seed": seed, "method": {"name": method, "lr": 1 if method == "ppo" else 2}, "threads": seed, **more}

    words = differences([config("ppo", 0), config("dpo", 0), config("ppo", 1)])
    assert words == [["method.name=ppo", "seed=0"], ["method.name=dpo", "seed=0"], ["method.name=ppo", "seed=1"]]
    words = differences([config("ppo", 0, a={"b": 1}), config("ppo", 0, a={"b": 2}), config("dpo", 0)])
    assert words[0] == ["method.name=ppo", "a.b=1", "seed=0"]
    assert words[2] == ["method.name=dpo", "seed=0"]
    assert differences([config("ppo", 0)]) == [["seed=0"]]


def test_what_a_sweep_has_not_finished_is_not_passed_over(tmp_path):
    path = write_run(tmp_path / "0", seed=0)
    with open(tmp_path / "summary.jsonl", "w") as file:  # the sweep goes on, or was killed, after its first job
        file.write(json.dumps({"job": 0, "overrides": ["seed=0"], "exit_code": 0, "error": None, "folder": "0"}) + "\n")
    assert "1 runs" not in Page(write_report(tmp_path).read_text()).words
    running = write_run(tmp_path / "1", seed=1)
    (running / "evaluation.json").unlink()
    (running / "run.json").write_text(json.dumps({"status": "running"}))
    page = Page(write_report(tmp_path).read_text())
    assert "2 runs" in page.words and "1 of 2 unfinished" in page.words
    assert "all runs 1 of 2 0.500" in page.words  # finished, and so counted
    assert (
        f"unfinished status running, update 20 of 20: it still runs, or was killed (align resume={running})"
        in page.text
    )
    assert path.is_dir()


def test_a_spent_budget_is_no_failure_and_a_broken_limit_is_one(tmp_path):
    for name, why in (("a", "100417 policy tokens reach max_policy_tokens=100000"), ("b", "KL of 9 is above 8")):
        folder = write_run(tmp_path / name)
        facts = json.loads((folder / "run.json").read_text()) | {"stopped": why}
        (folder / "run.json").write_text(json.dumps(facts))
        words = Page(write_report(folder).read_text()).words
        assert ("did not go as asked" in words) == (name == "b")
        assert (f"ended {why}" in words, f"stopped early {why}" in words) == (name == "a", name == "b")


@pytest.mark.parametrize(
    ("judge", "words"), [("gold", "world's gold reward"), ("evaluation", "evaluation's reward model")]
)
def test_says_who_judged_the_win_rate(tmp_path, judge, words):
    folder = write_run(tmp_path)
    content = json.loads((folder / "evaluation.json").read_text())
    content["settings"]["judge"] = judge
    (folder / "evaluation.json").write_text(json.dumps(content))
    assert f"The win rate is judged by the {words}" in Page(write_report(folder).read_text()).words


def test_the_gap_between_proxy_and_gold_is_a_curve(compared):
    for title, end in (("Proxy-gold gap", 0.75), ("Length-reward correlation", 0.5)):
        curve = compared.charts[title]["curves"][0]
        assert curve["x"]["step"] == [0, 10, 20] and curve["y"] == pytest.approx([0, end / 2, end])


# The command ---------------------------------------------------------------------------------------------------------


def test_command_line(folder, sweep, tmp_path, capsys, monkeypatch):
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    monkeypatch.chdir(tmp_path)
    assert main([str(folder), str(sweep), "--export", "figures"]) == 0
    assert capsys.readouterr().out.split() == ["report.html", "figures"]
    both = Page(Path("report.html").read_text()).words
    assert "6 runs" in both and "RunError: <b>diverged</b>" in both  # also the job that left no folder
    assert main([str(folder), "--output", "elsewhere/page.html"]) == 0
    assert Path("elsewhere/page.html").exists()


@pytest.mark.parametrize("content", [None, "{not json}\n", "[1]\n"])
def test_what_is_no_run_is_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text("seed: 0\n")
        (tmp_path / "log_history.jsonl").write_text(content)
    assert main([str(tmp_path if content else tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("log_history.jsonl" if content else "config.yaml") in error
    with pytest.raises(InputError):
        load_run(tmp_path)


def test_figures_and_tables_are_exported(sweep, tmp_path):
    assert main([str(sweep), "--export", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"reward_by_step.svg", "reward_by_tokens.svg", "reward_by_seconds.svg", "forgetting.svg"} <= names
    drawing = (tmp_path / "out" / "held_out_kl_to_the_reference_by_step.svg").read_text()
    assert ">ppo<" in drawing and ">dpo<" in drawing and "var(" not in drawing
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "| `ppo` | 2 | 1 noted | 0.502 ± 0.019 |" in tables
    assert "| response: filler | +0.450 ± 0.635 | -0.100 ± 0.000 | 1.000 ± 0.000 |" in tables
    assert "- job 4, `method=sft seed=0`: RunError" in tables


def test_report_needs_no_torch(folder):
    code = "import sys; from align.report.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stdout=subprocess.DEVNULL)
