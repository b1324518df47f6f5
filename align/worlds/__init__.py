"""Worlds: task sets whose true (gold) reward is known, and the assets shipped with them.

An asset is addressed as `align://<world>/<file>`, one of no world as `align://<file>`, a world by its name
(`data.world`). Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from align.errors import InputError

SCHEME = "align://"
ASSETS = Path(__file__).parent / "assets"
GENERAL = f"{SCHEME}general.jsonl"  # passages of several kinds, on which real models are measured for forgetting


@dataclass(frozen=True)
class Segment:
    """A stretch of a response and what it earned.

    `start == end == len(response)` stands for the end of the response (its end token, or the lack of one).
    """

    start: int  # characters of the response, [start, end)
    end: int
    credit: float
    label: str  # "good", or the flaw


@dataclass(frozen=True)
class Gold:
    """True reward of one response; `total` equals the sum of the segments' credits without rounding."""

    total: float  # in [-1, 1]
    segments: tuple[Segment, ...]  # in order, without overlap


class World(Protocol):
    """A task set with a known reward: the exact sum of the credits of the response's segments."""

    name: str

    def gold(self, row: Mapping[str, Any], response: str, ended: bool) -> Gold:
        """Compute the reward of `response` (text without special tokens) to the prompt of `row` of the world's data.

        `ended`: whether the response stopped by itself (False: cut at the length limit). Raises InputError where the
        row lacks a column that the world needs.
        """
        ...


def resolve(path: str, key: str = "path") -> str:
    """Return the real path of `align://<world>/<file>` or `align://<file>`; other paths come back unchanged.

    Raises InputError, which names `key`, for no such asset, or an address that leaves the assets' folder.
    """
    if not path.startswith(SCHEME):
        return path
    relative = path.removeprefix(SCHEME).strip("/")
    real = (ASSETS / relative).resolve()
    if relative and real.is_relative_to(ASSETS.resolve()) and real.exists():
        return str(real)
    patterns = ("*.jsonl", "*/*", "*/reward_models/*")
    found = [p for pattern in patterns for p in ASSETS.glob(pattern) if p.name != "reward_models"]
    addresses = sorted(SCHEME + p.relative_to(ASSETS).as_posix() for p in found)
    raise InputError(key, path, ", ".join(addresses) or "none: no assets are installed")


def get(name: str) -> World:
    """Return the world called `name`; InputError where there is none."""
    if name != "pocket":
        raise InputError("data.world", name, "pocket")
    from align.worlds.pocket import PocketWorld

    return PocketWorld()
