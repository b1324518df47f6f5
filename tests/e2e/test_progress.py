"""Progress of a whole run whose standard error is a pipe, as in a log file."""

import json
import os
import re
import subprocess
import sys

import pytest

from align.metrics import RECORD_FIELDS, lookup

WORDS = [
    "method=dpo",
    "max_steps=3",
    "reward/source=gold",
    "reward/credit=sparse",
    "evaluation.num_prompts=4",
    "evaluation.num_pairs=4",
    "evaluation.num_texts=2",
    "evaluation.num_probes=0",
    "rollout.max_new_tokens=16",
    "threads=1",
    "hydra.run.dir=run",
]


@pytest.mark.slow
def test_a_log_file_shows_loss_rate_speed_and_time_left(tmp_path):
    command = [sys.executable, "-m", "align", *WORDS]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"ALIGN_HOME": "home"}
    )
    assert done.returncode == 0, done.stderr
    figures = r"loss \d\.\d+  accuracy \d\.\d+  lr \d\.\de-\d\d  \d+ tokens/s"
    left = r"(, about \d:\d\d left)?"  # nothing is left after the last
    steps = re.findall(rf"^step (\d)/3  {figures}  \d:\d\d elapsed{left}$", done.stderr, re.MULTILINE)
    assert [(step, bool(shown)) for step, shown in steps] == [("1", True), ("2", True), ("3", False)]
    assert re.search(r"^training will take about \d:\d\d in all$", done.stderr, re.MULTILINE)
    assert "\x1b" not in done.stderr and "\r" not in done.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "log_history.jsonl").read_text().splitlines()]
    updates = [record for record in records if "dpo/loss" in record]
    assert [record["step"] for record in updates] == [1, 2, 3]
    for name in set().union(*updates) - set(RECORD_FIELDS):
        assert lookup(name), name
