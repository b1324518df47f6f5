"""Made once, found ever after, also by jobs in parallel; never found half-made."""

import subprocess
import sys
from pathlib import Path

import pytest

from align.store import TRAINING, find, find_or_make, home, key_of

MAKER = """
import os, sys, time
from pathlib import Path
from align.store import find_or_make

def make(folder):
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()}\\n")
    (folder / "half").write_text("1")
    time.sleep(0.5)
    (folder / "whole").write_text("2")

print("ready", flush=True)
sys.stdin.readline()
folder = find_or_make("things", {"seed": 0}, make)
print((folder / "whole").read_text())
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path / "home"))


def test_key_depends_on_every_part_and_not_on_their_order():
    key = key_of({"base": "x", "settings": {"a": 1, "b": 2}})
    assert key == key_of({"settings": {"b": 2, "a": 1}, "base": "x"})
    others = [{"base": "y", "settings": {"a": 1, "b": 2}}, {"base": "x", "settings": {"a": 1, "b": 3}}, {"base": "x"}]
    assert len({key, *map(key_of, others)}) == 4


def test_made_once_then_found():
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("x")

    assert find("things", {"a": 1}) is None
    folder = find_or_make("things", {"a": 1}, make)
    assert folder == home() / "things" / key_of({"a": 1}) == find("things", {"a": 1})
    assert (folder / "file").read_text() == "x"
    assert find_or_make("things", {"a": 1}, make) == folder and len(made) == 1
    find_or_make("things", {"a": 2}, make)
    assert len(made) == 2


def test_a_failed_make_is_never_found_and_hands_on_its_training_alone():
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        for name in ("other", TRAINING):
            (folder / name).mkdir()
            (folder / name / "file").write_text(name)
        raise KeyboardInterrupt

    handed: list[set[str]] = []

    def make(folder: Path) -> None:
        handed.append({str(p.relative_to(folder)) for p in folder.rglob("*")})
        (folder / "whole").touch()

    with pytest.raises(KeyboardInterrupt):
        find_or_make("things", {"a": 1}, fail)
    assert find("things", {"a": 1}) is None
    folder = find_or_make("things", {"a": 1}, make)
    assert handed == [{TRAINING, f"{TRAINING}/file"}]
    assert [p.name for p in folder.iterdir()] == ["whole"]


def test_processes_in_parallel_make_it_once(tmp_path):
    log = tmp_path / "log"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen([sys.executable, "-c", MAKER, str(log)], **pipes) for _ in range(2)]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    assert [job.communicate(timeout=60)[0] for job in jobs] == ["2\n", "2\n"]
    assert len(log.read_text().split()) == 1
