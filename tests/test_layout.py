"""One order of layers: CONTRIBUTING's table and pyproject's import rules name every module of align alike."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_contributings_floors_are_pyprojects():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract for contract in contracts if contract["name"].startswith("Floors: "))
    rows = re.findall(r"^\| \d \| ([^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    stated = [re.findall(r"`(\w+)`", row) for row in rows]
    assert stated == [re.findall(r"\w+", layer) for layer in floors["layers"]]
    found = {
        path.stem for path in (ROOT / "align").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(name for row in stated for name in row) == sorted(found - {"__init__"})


def test_no_rule_overlooks_a_dependency_between_modules():
    """Lazy imports of the commands aside."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    ignored = [line for contract in contracts for line in contract.get("ignore_imports", [])]
    within = [line for line in ignored if line.partition(" -> ")[2].startswith("align")]
    assert within and all(line.startswith("align.cli.") for line in within)
