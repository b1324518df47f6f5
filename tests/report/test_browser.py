"""The page in a real browser: a real sweep, its filters clicked, nothing on the console, nothing on the network."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from align.cli.main import main
from align.report import write_report
from tests import tiny
from tests.algorithms import runs
from tests.report.conftest import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None and os.environ.get("CI") != "true":  # where CI installs it, its lack is a failure
    pytest.skip("needs Chromium (apt-get install chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'align[dev]'")

SHOTS = os.environ.get("ALIGN_SCREENSHOTS")  # a folder in which to keep what the tests see
LONG = 10_000


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """(path, width, scheme) -> the page, whose console and network must have stayed silent at the end."""
    pages, said, asked = [], [], []

    def call(path, width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector(".plot svg")
        pages.append(page)
        return page

    yield call
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert sum(not url.startswith("data:") for url in asked) == len(pages)
    for page in pages:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out
        page.close()


def shot(page, tmp_path, name):
    folder = Path(SHOTS) if SHOTS else tmp_path
    page.screenshot(path=folder / f"{name}.png", full_page=True)
    assert (folder / f"{name}.png").stat().st_size > 20_000


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two methods, two seeds each, on the tiny model: a sweep as the command line runs it."""
    root = tmp_path_factory.mktemp("real")
    data = runs.write_data(root / "data")
    words = [
        *("-m", "method=ppo,dpo", "seed=0,1", "model=local", f"model.path={tiny.folder()}", "reward=sparse"),
        *("data=jsonl", f"data.path={data / 'train.jsonl'}", f"data.held_out_path={data / 'held_out.jsonl'}"),
        *(f"evaluation.general_text={data / 'general.jsonl'}", f"reward.source.path={tiny.reward_folder()}"),
        *("reward.source.reference_responses=8", "max_steps=4", "rollout.batch_size=16", "rollout.max_new_tokens=8"),
        *("threads=1", "checkpoint.every_steps=0", "evaluation.every_steps=2", f"hydra.sweep.dir={root / 'sweep'}"),
    ]
    arguments, sys.argv = sys.argv, ["align", *words]
    try:
        assert main() == 0
    finally:
        sys.argv = arguments
    return root / "sweep"


def test_a_real_sweep(sweep, opened, tmp_path):
    page = opened(sweep / "report.html")
    assert page.inner_text("h1") == "4 runs: method ppo, dpo"
    records = [json.loads(line) for line in (sweep / "0" / "ppo_metrics.jsonl").read_text().splitlines()]
    # Curves: the methods overlaid where both measure, hidden and shown by their boxes, on every axis.
    kl = page.locator(".plot[aria-label^='Held-out KL']")
    assert kl.locator("path.line").count() == 2
    page.locator("#training [data-arm='1']").uncheck()
    assert kl.locator("path.line").count() == 1
    assert page.locator("[data-arm='1']").first.is_checked() is False  # the boxes of all sections agree
    page.locator("#training [data-arm='1']").check()
    reward = page.locator(".plot[aria-label^='Reward,']")
    assert reward.locator("path.line").count() == 1
    assert reward.locator("text.name").text_content() == "updates"
    page.select_option("#axis", "tokens")
    assert reward.locator("text.name").text_content() == "policy tokens"
    reward.hover()
    tip = reward.locator(".tip").inner_text()
    assert "ppo: " in tip and any(f"{r['tokens/policy']:.0f}"[:2] in tip for r in records)
    page.select_option("#axis", "seconds")
    assert reward.locator("text.name").text_content() == "seconds"
    # Completions.
    total = page.locator("#list .pair").count()
    assert total == 8
    assert page.locator("#list .pair").first.locator(".side").count() == 3
    page.select_option("#who", "all")
    assert page.locator("#list .pair").first.locator(".side").count() == 5
    parts = []
    for which in ("better", "worse", "same"):
        page.select_option("#filter", which)
        parts.append(page.locator("#list .pair").count())
    assert sum(parts) == total and parts[0] > 0
    page.select_option("#filter", "all")
    page.fill("#search", "HELLO")
    assert page.locator("#list .prompt").all_inner_texts() == ["hello you w"]
    page.fill("#search", "")
    # The probes of all runs, as their evaluations wrote them: one alone may have no response that can be cut short.
    written = [json.loads((sweep / job / "evaluation.json").read_text())["after"]["probes"] for job in "0123"]
    every = [(name, kind) for name in ("prompt", "response") for own in written for kind in own[f"{name}s"]["count"]]
    kinds = [f"{name}: {kind}" for name, kind in dict.fromkeys(every)]
    assert page.locator("#probes tbody th").all_inner_texts() == kinds and len(kinds) > 4
    assert page.locator("#probes tbody tr").first.locator("td").count() == 2
    painted = page.locator(".response span[style*='background']").first
    assert float(painted.get_attribute("title").split()[-1]) != 0
    shot(page, tmp_path, "wide")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_phone_and_dark_mode(sweep, opened, tmp_path, width, scheme):
    page = opened(sweep / "report.html", width, scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, background[4:-1].split(","))) < 60) == (scheme == "dark")
    assert page.locator(".plot svg").first.bounding_box()["width"] <= width
    for mark in page.locator(".plot text.y").all():
        if mark.is_visible():  # no number is cut off
            assert mark.bounding_box()["x"] >= mark.locator("xpath=ancestor::figure").bounding_box()["x"]
    shot(page, tmp_path, f"{width}-{scheme}")


def test_a_figure_is_saved_as_svg_and_png(sweep, opened):
    page = opened(sweep / "report.html", scheme="dark")
    figure = page.locator("figure", has=page.locator("[aria-label^='Held-out KL']")).first
    with page.expect_download() as saved:
        figure.locator("[data-save=svg]").click()
    assert saved.value.suggested_filename == "held_out_kl_to_the_reference.svg"
    drawing = ElementTree.parse(saved.value.path()).getroot()
    texts = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:3] == ["Held-out KL to the reference, nats/response", "ppo", "dpo"] and "updates" in texts
    lines = [p for p in drawing.iter("{http://www.w3.org/2000/svg}path") if p.get("stroke-width") == "2px"]
    assert {p.get("stroke") for p in lines} == {
        "rgb(122, 167, 240)",
        "rgb(235, 154, 92)",
    }  # inside, without a style sheet
    with page.expect_download() as saved:
        figure.locator("[data-save=png]").click()
    image = Path(saved.value.path()).read_bytes()
    width, height = struct.unpack(">II", image[16:24])
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert (width, height) == tuple(round(3 * float(drawing.get(side))) for side in ("width", "height"))
    assert len(image) > 5000  # something is drawn


def test_many_arms_with_long_names_leave_room_for_figures_on_a_phone(tmp_path, opened):
    for i in range(9):
        write_run(
            tmp_path / str(i), steps=4, credit=f"a_credit_scheme_of_some_length_{i}", method=("ppo", "dpo")[i % 2]
        )
    page = opened(write_report(tmp_path), 390)
    assert page.locator("table.headline tbody tr").last.locator("td").nth(1).bounding_box()["x"] < 300
    bar = page.locator("#training .bar")
    assert bar.bounding_box()["height"] > 200 and bar.evaluate("(e) => getComputedStyle(e).position") == "static"
    ninth = page.locator("[aria-label^='Reward,'] path.line").last
    assert ninth.get_attribute("stroke-dasharray")  # its colour is the first's


def test_what_a_model_wrote_stays_text_in_the_browser(folder, opened):
    page = opened(write_report(folder))
    page.fill("#search", "</script>")
    assert page.locator("#list .pair").count() == 1
    assert "<script>alert(1)</script>" in page.locator("#list .side").last.inner_text()
    assert page.locator("#list img").count() == 0
    page.fill("#search", "")
    page.select_option("#order", "gain")
    first = page.locator("#list .prompt").first.inner_text()
    assert first.startswith("question 11")
    page.click("#next")
    assert page.inner_text("#count") == "12 of 12 shown."
    page.select_option("#filter", "same")  # one whose scores are equal, one that is the same response
    assert sorted(t.split()[1] for t in page.locator("#list .prompt").all_inner_texts()) == ["0", "4"]
    page.select_option("#filter", "cut")
    assert [t.split()[1] for t in page.locator("#list .prompt").all_inner_texts()] == ["5"]
    page.select_option("#filter", "all")
    page.select_option("#colour", "segments")
    assert page.locator(".response .chip").first.get_attribute("title") == "no end -0.25"


def test_ten_thousand_steps_open_in_two_seconds(tmp_path, opened):
    spike = 6543
    folder = write_run(tmp_path / "long", steps=10, gap_at=0)
    record = json.loads((folder / "ppo_metrics.jsonl").read_text().splitlines()[0])
    with open(folder / "log_history.jsonl", "w") as file:
        for step in range(1, LONG + 1):
            value = 1e3 if step == spike else (step % 7) / 7
            file.write(json.dumps(record | {"step": step, "seconds": 0.5 * step, "reward/score_mean": value}) + "\n")
    path = write_report(folder)
    began = time.perf_counter()
    page = opened(path)
    page.wait_for_function("[...document.querySelectorAll('#training > .charts .plot')].every((p) => p.firstChild)")
    assert time.perf_counter() - began < 2
    assert f"{LONG:,} updates are drawn as 240 points" in page.inner_text("#thinned")
    score = page.evaluate("charts.find((c) => c.title === 'Reward').curves[0]")
    assert max(score["high"]) == 1e3 and score["high"].index(1e3) == (spike - 1) * 240 // LONG
    assert len(score["y"]) == 240
