"""Build the configuration of a resumed run: the saved one, with the few changes that keep its records comparable."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from align.config import Config
from align.config.io import build, load_unchecked
from align.errors import InputError

# Keys that may change; a section includes its keys.
FREE = ("max_steps", "max_policy_tokens", "checkpoint.keep", "tracking", "callbacks")


def changes(cfg: DictConfig, overrides: Iterable[str]) -> dict[str, Any]:
    """Collect what the `key=value` words of a resumed run change: full key -> value in `cfg`, sections as mappings.

    Raises:
        InputError: a word other than `resume=` and what FREE allows.
    """
    changed: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key == "resume":
            continue
        if not is_free(key, FREE) or override.is_delete():
            allowed = f"{', '.join(FREE)} beside resume; start a new run to change more"
            raise InputError(key, override.input_line, allowed)
        value = OmegaConf.select(cfg, key)
        changed[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return changed


def resumed_config(folder: Path, changed: Mapping[str, Any]) -> Config:
    """Apply `changed` to the configuration saved in `folder`, and set `resume` to `folder`.

    Raises:
        InputError: no run in `folder`, a change that is not allowed, or fewer steps or policy tokens than the run
            was configured for.
    """
    saved = load_unchecked(folder / "config.yaml")
    planned = {limit: saved[limit] for limit in ("max_steps", "max_policy_tokens")}
    for key in sorted(changed):  # a section before its keys
        if not is_free(key, FREE):
            raise InputError(key, changed[key], f"{', '.join(FREE)} beside resume")
        OmegaConf.update(saved, key, changed[key])
    for limit, before in planned.items():
        if saved[limit] is not None and (before is None or saved[limit] < before):
            allowed = "null, as in the run" if before is None else f"the run's own {before}, or more"
            raise InputError(limit, saved[limit], allowed)
    saved.resume = str(folder)
    return build(saved)


def is_free(key: str, among: Iterable[str]) -> bool:
    """Whether `key` is one of those, or inside a section of those."""
    return any(key == free or key.startswith(f"{free}.") for free in among)
