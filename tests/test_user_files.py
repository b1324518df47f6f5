"""A file that the user names is imported, with its neighbours, and whatever can be called there is called."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from align.errors import InputError
from align.user_files import find_callable, make_callable, release


def write(folder: Path, code: str, name: str = "my.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(code), encoding="utf-8")
    return folder / name


FORMS = """
from __future__ import annotations
import functools
from dataclasses import dataclass
from other import elsewhere

def plain(responses): return [len(r) for r in responses]

try:
    import no_such_verifier
except ImportError:
    def guarded(responses): return [len(r) for r in responses]

if len("x") == 1:
    def under_if(responses): return [len(r) for r in responses]

def keeping(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs): return f(*args, **kwargs)
    return wrapper

def hiding(f):
    def wrapper(*args, **kwargs): return f(*args, **kwargs)
    return wrapper

class Hiding:
    def __init__(self, f): self.f = f
    def __call__(self, *args, **kwargs): return self.f(*args, **kwargs)

@keeping
def wrapped(responses): return [len(r) for r in responses]

@hiding
def hidden(responses): return [len(r) for r in responses]

@Hiding
def hidden_in_an_object(responses): return [len(r) for r in responses]

def scaled(responses, scale): return [scale * len(r) for r in responses]

part = functools.partial(scaled, scale=1)
named = lambda responses: [len(r) for r in responses]

@dataclass
class Length:
    scale: float = 1.0
    def __call__(self, responses): return [self.scale * len(r) for r in responses]

instance = Length()
method = Length().__call__
one, two = plain, named
"""
NAMES = ["plain", "guarded", "under_if", "wrapped", "hidden", "hidden_in_an_object", "part", "named", "Length"]
NAMES += ["instance", "method", "elsewhere", "two"]


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_callable_is_called(tmp_path, name):
    write(tmp_path, "def elsewhere(responses): return [len(r) for r in responses]", "other.py")
    function = make_callable(f"{write(tmp_path, FORMS)}:{name}", "k")
    assert function(responses=["ab", ""]) == [2, 0]


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("import nothing_like_it", "f", r"can be imported \(ModuleNotFoundError: .*nothing_like_it.*my\.py line 1"),
        ("\n\n1 / 0", "f", r"imported \(ZeroDivisionError: division by zero, my\.py line 3\)"),
        ("def f(:", "f", r"imported \(SyntaxError: .*my\.py, line 1"),
        ("import sys; sys.exit(3)", "f", r"imported \(SystemExit: 3, my\.py line 1\)"),
        ("import broken", "f", r"imported \(KeyError: 'x', broken\.py line 2\)"),
        ("f = 3", "f", r"something that can be called \(this is f, of int\)"),
        ("from math import sqrt\ndef g(responses): ...\ng2 = g", "f", "one of the functions there: g, g2, sqrt'?$"),
        ("x = 1", "f", "one of the functions there: none"),
        ("class F: ...", "F", r"something that can be called \(this is a class without __call__, F\)"),
        (
            "class F:\n  def __init__(self, a, *, b, c=1): ...\n  def __call__(self, responses): ...",
            "F",
            r"an object of it \(F needs a, b\)",
        ),
        ("f = max", "f", "whose parameters have names in Python"),
        ("class F:\n  def __init__(self): 1 / 0\n  def __call__(self, responses): ...", "F", r"Zero.*my\.py line 2"),
    ],
)
def test_what_cannot_be_called_is_refused_in_one_line(tmp_path, code, name, message):
    write(tmp_path, "\nraise KeyError('x')", "broken.py")
    with pytest.raises(InputError, match=f"^k: given '.*my.py:{name}'; allowed: .*{message}") as caught:
        make_callable(f"{write(tmp_path, code)}:{name}", "k")
    assert "\n" not in str(caught.value) and "align_user" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"), [("x.py", "FILE.py:NAME"), ("x.py:a.b", "FILE.py:NAME"), ("x.py:f", "no such file")]
)
def test_what_names_no_file_is_refused(path, message):
    with pytest.raises(InputError, match=message):
        find_callable(path, "k")


# --- neighbours -------------------------------------------------------------------------------------------------------

USER = """
import json
import statistics
from utils import SCALE
from parts.inner import DOUBLE
import parts.inner as inner

def reward(responses):
    from late import ADD  # when it is called
    import utils
    assert utils.SCALE == SCALE and inner.DOUBLE is DOUBLE
    return [statistics.fmean([0]) + SCALE * len(r) + ADD for r in responses]
"""


def folder_of(path: Path, scale: int) -> str:
    write(path, f"from late import ADD\nSCALE = {scale} + 0 * ADD", "utils.py")
    write(path, f"ADD = {scale}", "late.py")
    write(path / "parts", "", "__init__.py")
    write(path / "parts", "from .base import DOUBLE", "inner.py")
    write(path / "parts", "DOUBLE = 2", "base.py")
    write(path, "fmean = lambda numbers: 1000", "statistics.py")  # as the standard library's, and imported by others
    (path / "json").mkdir()  # a folder without code hides nothing
    return f"{write(path, USER)}:reward"


def test_two_files_have_neighbours_of_the_same_name_and_nobody_else_sees_them(tmp_path):
    before, path = set(sys.modules), list(sys.path)
    one, two = (make_callable(folder_of(tmp_path / name, k), "k") for name, k in (("a", 1), ("b", 10)))
    assert one(responses=["xx"]) == [1003] and two(responses=["xx"]) == [1030]
    assert one(responses=[]) == [] and one.__globals__["json"] is json
    assert not {"utils", "late", "parts", "my"} & (set(sys.modules) - before) and sys.path == path
    assert statistics.fmean([1, 2]) == 1.5 and sys.modules["statistics"] is statistics
    found = []
    thread = threading.Thread(target=lambda: found.append(two(responses=["x"])))
    thread.start()
    thread.join()
    assert found == [[1020]]


def test_what_is_already_imported_from_there_is_not_imported_twice(tmp_path, monkeypatch):
    """As align itself is, where the file lies beside the package."""
    write(tmp_path, "class Shared: ...", "once_imported.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("once_imported")
    path = write(tmp_path, "from once_imported import Shared\ndef reward(responses): return Shared")
    assert make_callable(f"{path}:reward", "k")(responses=[]) is module.Shared
    del sys.modules["once_imported"]


def test_a_run_takes_what_the_check_imported_and_the_next_imports_anew(tmp_path):
    file = write(tmp_path, "def f(responses): ...\ndef g(responses): ...")
    checked = find_callable(f"{file}:f", "k")
    assert make_callable(f"{file}:f", "k") is checked and find_callable(f"{file}:g", "k").__globals__["f"] is checked
    release([f"{file}:f", f"{file}:g"])
    assert make_callable(f"{file}:f", "k") is not checked


def test_what_changed_since_the_check_is_imported_anew(tmp_path):
    write(tmp_path, "N = 1", "other.py")
    path = f"{write(tmp_path, 'from other import N; f = lambda responses: N')}:f"
    assert find_callable(path, "k")(responses=[]) == 1
    write(tmp_path, "N = 22", "other.py")
    assert find_callable(path, "k")(responses=[]) == 22
    assert not list(tmp_path.rglob("*.pyc"))
