"""No test can reach the real Hub: before a library is imported, HF_ENDPOINT is one that the tests serve themselves."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.hub import Hub

_HOME = tempfile.TemporaryDirectory(prefix="align-hub-")
_HUB = Hub()
os.environ |= {"HF_ENDPOINT": _HUB.endpoint, "HF_HOME": _HOME.name, "HF_HUB_DISABLE_TELEMETRY": "1"}
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
    os.environ.pop(name, None)


@pytest.fixture
def align(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: words -> (exit code, standard output, standard error)."""
    from align.cli.main import main  # not before the Hub's address is set

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["align", *words])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """This process's Hub, empty at first. What a test downloads stays in the process's cache: names are its own."""
    import align.hub

    monkeypatch.setattr(align.hub, "TRUST_SECONDS", 0.0)  # it goes up and down within a test
    _HUB.repositories.clear()
    _HUB.requests.clear()
    yield _HUB
    align.hub.cached_where_unreachable()  # back online, whatever the test did
