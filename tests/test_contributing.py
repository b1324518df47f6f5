"""CONTRIBUTING.md's worked example, applied to a copy of the package: its files, its test, and a run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from align.metrics import RECORD_FIELDS

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|yaml|diff)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = (
    "method=slic",
    "reward/source=gold",
    "reward/credit=sparse",
    "max_steps=2",
    "rollout.max_new_tokens=8",
    "evaluation.num_prompts=4",
    "evaluation.num_pairs=4",
    "evaluation.num_texts=2",
    "threads=1",
    "hydra.run.dir=run",
)


def apply(diff: str, text: str) -> str:
    """`text` with every hunk of the diff applied; each must fit in exactly one place."""
    for hunk in diff.split("@@\n"):
        old = "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] in " -")
        new = "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] in " +")
        old, new = old.removesuffix("\n"), new.removesuffix("\n")  # context may end in the middle of a line
        assert text.count(old) == 1, f"does not fit in one place:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, its configuration and the helpers of its tests, with the example added."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("align", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/tiny.py", "tests/contexts.py", "tests/algorithms/runs.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    assert len(blocks) == 7
    for kind, name, content in blocks:
        path = folder / name
        assert path.exists() == (kind == "diff"), name
        path.write_text(apply(content, path.read_text()) if kind == "diff" else content)
    return folder


def call(folder: Path, *words: str) -> str:
    # The copy stands first on the path, before an installed package.
    environment = os.environ | {"PYTHONPATH": str(folder), "ALIGN_HOME": str(folder / "home"), "ALIGN_TRACEBACK": "1"}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_its_test_passes(copy):
    out = call(copy, "pytest", "-q", "-p", "no:cacheprovider", "tests/algorithms/test_slic.py")
    assert "2 passed" in out


@pytest.mark.slow
def test_it_runs_by_its_name(copy):
    assert "slic" in call(copy, "align", "--help")
    call(copy, "align", *RUN)
    records = [json.loads(line) for line in (copy / "run" / "slic_metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 2]
    assert "slic/loss" in records[0] and set(RECORD_FIELDS) <= set(records[0])
    assert json.loads((copy / "run" / "evaluation.json").read_text())["after"] is not None
    assert not (ROOT / "align" / "algorithms" / "slic.py").exists()


def test_its_code_is_in_the_house_style(copy):
    files = ["align/config/slic.py", "align/algorithms/slic.py", "tests/algorithms/test_slic.py"]
    files += ["align/metrics.py", "align/config/groups.py", "align/algorithms/registry.py"]
    call(copy, "ruff", "check", "--no-cache", *files)
    call(copy, "ruff", "format", "--no-cache", "--check", *files)
