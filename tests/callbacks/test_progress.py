import io
import re
import subprocess
import sys

from rich.console import Console

from align.callbacks import RunInfo
from align.callbacks.display import Display
from align.callbacks.progress import ProgressCallback, before_after

SUMMARY = {
    "perplexity": 12.5,
    "kl_per_response": 0.0,
    "reward": {"proxy_mean": 0.1, "gold_mean": 0.2},
    "win_rate": {"mean": 0.5, "low": 0.5, "high": 0.5, "judge": "gold"},
}
AFTER = SUMMARY | {
    "kl_per_response": 0.75,
    "reward": {"proxy_mean": 0.4, "gold_mean": 0.6},
    "win_rate": {"mean": 0.8, "low": 0.71, "high": 0.88, "judge": "gold"},
}


def run(folder, *, terminal, start=0, steps=40):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    out = Console(file=io.StringIO(), width=100)
    callback = ProgressCallback(Display(console), out)
    callback.on_run_start(RunInfo(folder, {}, "ppo", steps, start, 0))
    for step in range(start + 1, steps + 1):
        callback.on_step({"step": step, "reward/score_mean": step / 100, "kl/per_response_k1": 0.5})
    return callback, console.file, out.file


def test_a_line_for_every_tenth_without_a_terminal(tmp_path):
    _, text, _ = run(tmp_path, terminal=False)
    lines = [line for line in text.getvalue().splitlines() if "in all" not in line]
    assert [int(re.match(r"step (\d+)/40", line)[1]) for line in lines] == [1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 40]
    assert "reward 0.400  KL 0.500" in lines[-1]
    assert " left" in lines[-2] and " left" not in lines[-1]
    assert "\x1b" not in text.getvalue()


def test_steps_are_counted_to_where_the_policy_tokens_will_be_spent(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    callback = ProgressCallback(Display(console))
    callback.on_run_start(RunInfo(tmp_path, {"max_policy_tokens": 1000}, "ppo", 40, 0, 0))
    for step, tokens in ((1, 300), (2, 600), (3, 1100)):
        callback.on_step({"step": step, "tokens/policy": tokens})
    assert [line.split()[1] for line in console.file.getvalue().splitlines() if line.startswith("step")] == [
        "1/4",
        "2/4",
        "3/3",
    ]


def test_live_bar_gives_the_cursor_back(tmp_path):
    callback, text, _ = run(tmp_path, terminal=True)
    assert "\x1b[?25l" in text.getvalue()  # hidden
    callback.on_failure(KeyboardInterrupt())
    assert text.getvalue().rindex("\x1b[?25h") > text.getvalue().rindex("\x1b[?25l")
    assert "reward 0.400" in text.getvalue()


def test_cursor_comes_back_even_if_nobody_says_that_the_run_failed():
    code = (
        "from pathlib import Path; from rich.console import Console; from align.callbacks import RunInfo\n"
        "from align.callbacks.display import Display; from align.callbacks.progress import ProgressCallback\n"
        "c = ProgressCallback(Display(Console(stderr=True, force_terminal=True)))\n"
        "c.on_run_start(RunInfo(Path('x'), {}, 'ppo', 5, 0, 0))\n"
        "raise SystemExit(1)"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_end_shows_the_table_and_the_folder(tmp_path):
    folder = tmp_path / "[bold]run[/bold]"  # brackets are no markup
    callback, _, out = run(folder, terminal=False, steps=3)
    callback.on_end({"before": SUMMARY, "after": AFTER, "stopped": "KL 9.1 above the budget of 8"})
    text = out.getvalue()
    assert re.search(r"gold reward\W+0\.200\W+0\.600\W+\+0\.400", text)
    assert "0.800 [0.710, 0.880]" in text
    assert "+0.300" in text
    assert "stopped early: KL 9.1" in text
    assert text.splitlines()[-1] == f"run folder: {folder}"
    assert "general text" not in text  # neither evaluation has it


def test_resumed_bar_counts_from_the_checkpoint(tmp_path):
    _, text, _ = run(tmp_path, terminal=False, start=20)
    assert text.getvalue().splitlines()[0].startswith("step 21/40")


def test_evaluation_line(tmp_path):
    callback, text, _ = run(tmp_path, terminal=False, steps=1)
    callback.on_evaluation("before", 0, SUMMARY)
    assert "evaluation (before, step 0): gold reward 0.200, proxy reward 0.100, KL 0.000" in text.getvalue()


def test_table_of_one_sided_figures():
    table = before_after({"cut_rate": 0.5}, {"perplexity": 2.0})
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    assert re.search(r"cut at the length limit\W+0\.500\W+-\W+-", console.file.getvalue())
