"""Worlds: task sets whose true (gold) reward is known, and the assets shipped with them.

An asset is addressed as `align://<world>/<file>`, a world by its name (`data.world`). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from align.errors import InputError
from align.worlds.base import Gold, Segment, World

__all__ = ["ASSETS", "SCHEME", "Gold", "Segment", "World", "get", "resolve"]

SCHEME = "align://"
ASSETS = Path(__file__).parent / "assets"


def resolve(path: str, key: str = "path") -> str:
    """Return the real path of `align://<world>/<file>`; other paths come back unchanged. Errors name `key`.

    Raises:
        InputError: No such asset, or an address that leaves the assets' folder.
    """
    if not path.startswith(SCHEME):
        return path
    relative = path.removeprefix(SCHEME).strip("/")
    real = (ASSETS / relative).resolve()
    if relative and real.is_relative_to(ASSETS.resolve()) and real.exists():
        return str(real)
    raise InputError(key, path, ", ".join(_addresses()) or "none: no assets are installed")


def get(name: str) -> World:
    """Return the world called `name`.

    Raises:
        InputError: Unknown name.
    """
    if name not in _WORLDS:
        raise InputError("data.world", name, ", ".join(sorted(_WORLDS)))
    return _WORLDS[name]()


def _addresses() -> list[str]:
    """Return the addresses of assets, two levels deep (plus stored reward models)."""
    found = [p for pattern in ("*/*", "*/reward_models/*") for p in ASSETS.glob(pattern)]
    return sorted(SCHEME + p.relative_to(ASSETS).as_posix() for p in found if p.name != "reward_models")


def _pocket() -> World:
    from align.worlds.pocket import PocketWorld

    return PocketWorld()


_WORLDS: dict[str, Callable[[], World]] = {"pocket": _pocket}
