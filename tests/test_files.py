import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from align.errors import InputError
from align.files import LineFile, dumps, keep_lines, read_lines, read_object, write_atomic


def test_nonfinite_numbers_are_null_and_named():
    text = dumps({"step": 1, "policy/loss": math.nan, "parts": {"a": [1.0, math.inf]}, "ok": 0.5})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1,
        "policy/loss": None,
        "parts": {"a": [1.0, None]},
        "ok": 0.5,
        "nonfinite": ["policy/loss", "parts.a[1]"],
    }
    assert "nonfinite" not in json.loads(dumps({"a": 1.0}))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"status": "finished", "hardw', "Unterminated string"),
        (b"", "Expecting value"),
        (b"\xff\xfe{", "utf-16"),
        (b"[1, 2]", r"\[1, 2\] \(list\)"),
        (b'{"hardware": [], "other": 1}', r"hardware: \[\]'; .* hardware a dict"),
        (b"[" * 100_000, "recursion"),
    ],
    ids=["cut", "empty", "bytes", "list", "part", "deep"],
)
def test_an_object_that_cannot_be_read_is_one_line_with_its_file(tmp_path, content, told):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: given .*{told}") as caught:
        read_object(path, hardware=dict)
    assert "\n" not in str(caught.value) and "a JSON object, as a run writes it" in caught.value.allowed


def test_an_object_with_its_parts(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"hardware": {"threads": 2}}')
    assert read_object(path, hardware=dict, sittings=list) == {"hardware": {"threads": 2}}


def test_one_line_whatever_the_text(tmp_path):
    text = 'a\nb\r\u2028 "quoted" <script> ü \x00'
    file = LineFile(tmp_path / "x.jsonl")
    file.append({"text": text})
    file.append({"text": "second"})  # readable while the file is open: nothing waits in a buffer
    assert [r["text"] for r in read_lines(tmp_path / "x.jsonl")] == [text, "second"]
    file.close()
    assert (tmp_path / "x.jsonl").read_bytes().count(b"\n") == 2


def test_half_written_last_line_is_dropped(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3, "a')
    assert [r["step"] for r in read_lines(path)] == [1, 2]
    keep_lines(path, lambda r: r["step"] <= 1)
    assert path.read_bytes() == b'{"step": 1}\n'
    keep_lines(tmp_path / "missing.jsonl", lambda r: True)
    assert not (tmp_path / "missing.jsonl").exists()
    assert list(read_lines(tmp_path / "missing.jsonl")) == []


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \udc80")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["x.json"]


def test_killed_writer_leaves_whole_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    code = (
        "import sys; from pathlib import Path; from align.files import LineFile\n"
        "f = LineFile(Path(sys.argv[1])); i = 0\n"
        "while True: f.append({'step': i, 'text': 'x' * 5000}); i += 1"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not path.exists() or path.stat().st_size < 500_000:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [r["step"] for r in read_lines(path)]
    assert len(steps) >= 90
    assert steps == list(range(len(steps)))
