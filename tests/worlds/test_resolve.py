"""Addresses of shipped assets and names of worlds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from align import worlds
from align.errors import InputError


def test_asset_addresses_become_real_paths() -> None:
    path = Path(worlds.resolve("align://pocket/train.parquet"))
    assert path.is_file() and path.parent == worlds.ASSETS / "pocket"
    assert Path(worlds.resolve("align://pocket/model")).is_dir()


@pytest.mark.parametrize("path", ["data.jsonl", "/tmp/x", "HuggingFaceTB/SmolLM2-135M"])
def test_other_paths_are_left_alone(path: str) -> None:
    assert worlds.resolve(path) == path


@pytest.mark.parametrize(
    "path", ["align://pocket/none.jsonl", "align://", "align://../__init__.py", "align://moon/model"]
)
def test_unknown_assets_are_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"given 'align://.*align://pocket/train\.parquet"):
        worlds.resolve(path)


def test_unknown_worlds_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.world: given 'moon'; allowed: pocket"):
        worlds.get("moon")


def test_worlds_import_no_torch() -> None:
    code = "import sys, align.worlds as w; w.get('pocket'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
