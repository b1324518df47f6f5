"""scripts/wandb_dashboard.py: what it saves to a server, and that it draws only what runs log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from align import metrics
from tests.callbacks.wandb_server import ENTITY, PROJECT

SCRIPT = Path(__file__).parents[2] / "scripts" / "wandb_dashboard.py"
BLOCKED = """
import runpy, sys
sys.modules["wandb_workspaces"] = None
sys.argv = ["dashboard"]
runpy.run_path({!r}, run_name="__main__")
"""


def call(*words):
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=120)


def leaves(tree, wanted):
    """Every value under one of the keys `wanted`."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in wanted:
                yield value
            yield from leaves(value, wanted)
    elif isinstance(tree, list):
        for value in tree:
            yield from leaves(value, wanted)


def test_four_views_of_what_runs_log_are_saved(server):
    pytest.importorskip("wandb_workspaces")
    done = call("--entity", ENTITY, "--project", PROJECT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{ENTITY}/{PROJECT}") == 4
    assert [view["displayName"] for view in server.views] == [
        *("KL and advantage", "Sparse against dense", "Group sizes", "Reward-KL frontier"),
    ]
    assert {(view["entityName"], view["projectName"]) for view in server.views} == {(ENTITY, PROJECT)}
    drawn = set()
    for view in server.views:
        spec = json.loads(view["spec"])
        for value in leaves(spec, ("metrics", "xAxis", "yAxis", "x", "y")):
            drawn |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str) and "/" in v}
    drawn = {name.removeprefix("summary:") for name in drawn}
    assert {"kl/per_response_k1", "advantage/std", "group/zero_std_fraction", "after/reward/gold_mean"} <= drawn
    assert "eval/kl_per_response" in drawn and "after/kl_per_response" in drawn
    for name in drawn:
        metrics.lookup(name.replace("after/", "eval/", 1))  # KeyError: nobody logs it
    specs = [view["spec"] for view in server.views]
    assert "reward.value.credit.name" in specs[1] and "method.value.group_size" in specs[2]


def test_one_view(server):
    pytest.importorskip("wandb_workspaces")
    assert call("--entity", ENTITY, "--only", "frontier").returncode == 0
    assert len(server.views) == 1
    assert call("--only", "fronteer").returncode == 2


def test_without_the_package_one_line_says_so():
    code = BLOCKED.format(str(SCRIPT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: wandb_workspaces is not installed: pip install 'align[dashboards]'\n"
