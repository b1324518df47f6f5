import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from align.errors import InputError
from align.report import write_report
from align.report.__main__ import main
from align.report.load import load_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


@pytest.fixture(scope="module")
def html(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_headline_holds_the_figures_of_the_evaluation(page):
    text = " ".join(page.text.split())
    assert "PPO, reward model with attention credit" in text
    assert "gold reward 0.200 0.500 +0.300" in text
    assert "win rate against the start 0.500 0.700 0.600 to 0.800 +0.200" in text
    assert "response length, tokens 20.00 12.00 -8.000" in text
    assert "a 90% bootstrap interval" in text


def test_says_how_to_repeat_the_run(page):
    assert "python -m align method=ppo 'data.path=my file.jsonl'" in page.text
    assert "20 of 20" in page.text
    assert "train 1:01" in page.text


def test_curves_are_those_of_the_records(folder, page):
    titles = re.findall(r'aria-label="([^"]*) over steps"', (folder / "report.html").read_text())
    assert titles[:7] == [
        *("Reward", "KL to the reference", "Advantage", "Critic: explained variance", "Response length", "Entropy"),
        "Held-out reward",
    ]
    curves = json.loads(page.data["curves"])
    assert len(curves) == len(titles)
    assert curves[0]["labels"] == ["score", "with KL penalty"]
    assert curves[0]["x"][0] == list(range(1, 21))
    assert curves[0]["y"][0] == [s / 10 for s in range(1, 21)]
    assert curves[5]["y"][0][6] is None  # NaN of update 7
    assert curves[6]["x"][0] == [0, 10, 20]
    assert curves[6]["y"] == [[0.1, 0.35, 0.6], [0.2, 0.35, 0.5]]
    assert "policy/clip_fraction" in titles
    assert not any(t.startswith("time/") for t in titles)


def test_what_a_model_wrote_stays_text(html, page):
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "49" not in page.data["pairs"]
    assert [t for t, _ in page.tags].count("script") == 3
    pair = json.loads(page.data["pairs"])[3]
    assert pair["after"]["text"].startswith("</script><script>alert(1)</script>")
    assert "".join(pair["before"]["pieces"]) == pair["before"]["text"]
    assert "innerHTML" not in page.data["script"].replace("never innerHTML", "")


def test_page_is_self_contained(html, page):
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href")]
    assert links == ["data:,"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert "url(" not in html
    assert "@import" not in html


def test_unfinished_and_failed_runs_have_a_report(tmp_path):
    (tmp_path / "config.yaml").write_text("method:\n  name: ppo\n")
    page = Page(write_report(tmp_path).read_text())
    assert "This run has no evaluation yet." in page.text
    assert "No update was recorded." in page.text
    (tmp_path / "run.json").write_text(json.dumps({"status": "failed", "error": "RunError: <b>bad</b>"}))
    (tmp_path / "log_history.jsonl").write_text('{"step": 1, "reward/score_mean": 0.5, "event/bad_steps": 2.0}\n{"st')
    (tmp_path / "evaluation.json").write_text(json.dumps({"before": {"eos_rate": 1.0}, "after": None}))
    page = Page(write_report(tmp_path).read_text())
    assert "RunError: <b>bad</b>" in page.text
    assert "2 updates or rollouts were not finite" in page.text
    assert re.search(r"ended by themselves\s+1\.000\s+-\s+-", page.text)


def test_command_line(folder, tmp_path, capsys):
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert main([str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.yaml" in error
    with pytest.raises(InputError, match="report"):
        load_run(tmp_path)


def test_report_needs_no_torch(folder):
    code = "import sys; from align.report.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_script_draws_the_completions_in_a_browser(folder, html, tmp_path):
    """Filters and order applied by events, as a reader would; the DOM afterwards is what counts."""
    steps = """
    const set = (id, v) => { const e = document.getElementById(id); e.value = v; e.dispatchEvent(new Event("input")); };
    const seen = () => [...document.querySelectorAll(".prompt")].map((e) => e.textContent.split(" ")[1]).join();
    const out = [seen()];
    document.getElementById("next").click(); out.push(document.getElementById("count").textContent);
    set("order", "gain"); out.push(seen());
    set("filter", "cut"); out.push(seen());
    set("filter", "all"); set("search", "ANSWER 7"); out.push(seen());
    set("search", ""); set("colour", "segments"); set("filter", "same"); out.push(seen());
    out.push(document.querySelector(".response .chip").title);
    const svg = document.querySelector(".plot svg"), box = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.right, clientY: box.top + 20 }));
    out.push(document.querySelector(".tip").textContent);
    document.title = out.join("|");
    """
    path = tmp_path / "page.html"
    path.write_text(html.replace("</body>", f"<script>{steps}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [
        "--no-first-run",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    dom = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=60).stdout
    title = re.search(r"<title>(.*?)</title>", dom, re.S)[1].split("|")
    assert title == [
        "0,1,2,3,4,5,6,7,8,9",
        "12 of 12 shown.",
        "11,10,9,8,7,6,5,4,3,2",
        "5",
        "7",
        "0",
        "no end -0.2500",
        "update 20score: 2with KL penalty: 2",
    ]
