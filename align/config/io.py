"""Build a checked, frozen configuration from Hydra's composition, write it and read it back. Imports no torch."""

import copy
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from align.config.base import Section
from align.config.composition import check_all
from align.config.data import DataConfig
from align.config.groups import POLYMORPHIC
from align.config.judge import TRAIN, JudgeConfig
from align.config.mixture import MixtureSource
from align.config.schema import Config, RewardConfig
from align.errors import InputError
from align.files import write_atomic


def register_schemas() -> None:
    """Register every schema with Hydra: `config_schema` for the root, `/_schema/<group>/<name>` of polymorphic ones."""
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    for key, classes in POLYMORPHIC.items():
        for name, schema in classes.items():
            store.store(group=f"_schema/{key.replace('.', '/')}", name=name, node=schema)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)


def _run_folder(resume: str | None, fresh: str) -> str:
    """Return the run's folder: the resumed run's own, else the fresh one."""
    if resume is None:
        return fresh
    if not (Path(resume) / "config.yaml").is_file():
        raise InputError("resume", resume, "the folder of a run (it holds config.yaml)")
    return resume


def build(cfg: DictConfig) -> Config:
    """Convert a composition to a checked and frozen configuration; raise InputError on the first bad value."""
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise InputError(missing[0], "nothing", f"it has no default: set {missing[0]}=VALUE")
        refuse_added_keys(cfg)
        _type_mixture(cfg)
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:  # an interpolation without a target
        key = error.full_key or "configuration"
        raise InputError(key, _raw(cfg, key), f"what resolves ({str(error).splitlines()[0]})") from error
    if not isinstance(config, Config):
        raise TypeError(f"not a composition of align: {type(config).__name__}")
    _expand_home(config)
    check_all(config)
    config.freeze()
    return config


def refuse_added_keys(node: DictConfig, prefix: str = "") -> None:
    """Raise InputError on a key that no schema has: `+key=value` gets past Hydra's own check."""
    schema = OmegaConf.get_type(node)
    known = sorted(f.name for f in dataclasses.fields(schema)) if dataclasses.is_dataclass(schema) else None
    for key, child in node.items():
        if known is not None and key not in known:
            near = get_close_matches(str(key), known, n=1) or known
            raise InputError(f"{prefix}{key!s}", f"+{prefix}{key!s}", ", ".join(near))
        if isinstance(child, DictConfig):  # a section, or a mapping whose values may be sections
            refuse_added_keys(child, f"{prefix}{key!s}.")


def _type_mixture(cfg: DictConfig) -> None:
    """Give each source of a mixture its schema; Hydra adds none of a typed mapping's values from a command line."""
    sources = cfg.data.mixture if OmegaConf.get_type(cfg.data) is DataConfig else {}
    for name in list(sources):
        key, given = f"data.mixture.{name!s}", sources[name]
        known = [field.name for field in dataclasses.fields(MixtureSource)]
        if not isinstance(given, DictConfig):
            raise InputError(key, given, f"its keys one by one: {', '.join(f'{key}.{own}' for own in known)}")
        for own in given:
            if own not in known:
                near = get_close_matches(str(own), known, n=1) or known
                raise InputError(f"{key}.{own!s}", given[own], ", ".join(near))
        if "path" not in given:
            raise InputError(f"{key}.path", "nothing", f"it has no default: set {key}.path=VALUE")
        try:
            sources[name] = OmegaConf.merge(OmegaConf.structured(MixtureSource), given)
        except OmegaConfBaseException as error:
            allowed = " ".join(str(error).splitlines()[0].split())
            raise InputError(f"{key}.{error.key}", given.get(str(error.key)), allowed) from error


def _expand_home(config: Config) -> None:
    """Replace `~` by the home folder in every path, since YAML files may hold it."""
    sources = config.reward.source.every().values()
    data = (config.data, *config.data.mixture.values())
    for section in (config.model, *data, *sources, config.reward.credit, config.evaluation):
        for name in section.path_fields:
            value = getattr(section, name)
            if isinstance(value, list):
                setattr(section, name, [os.path.expanduser(path) for path in value])
            elif value is not None:
                setattr(section, name, os.path.expanduser(value))


def _raw(cfg: DictConfig, key: str) -> object:
    """Return the value at `key` as written, interpolations unresolved."""
    node: object = OmegaConf.to_container(cfg, resolve=False)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def save(config: Config, path: Path, command: str | None = None) -> None:
    """Write `config` as YAML for `load`, under a comment with the command line (None = this process's)."""
    program = "python -m align" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name
    line = " ".join((command or f"{program} {shlex.join(sys.argv[1:])}").split())
    write_atomic(path, f"# {line}\n{OmegaConf.to_yaml(_node(config))}")


def literal(text: str) -> str:
    """Escape what OmegaConf would take for an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text)


def _node(config: Config) -> DictConfig:
    """Convert a configuration to OmegaConf's; its texts are final, so that no `${` in them is an interpolation."""
    copied = copy.deepcopy(config)
    copied.thaw()
    _make_literal(copied)
    node = OmegaConf.structured(copied)
    assert isinstance(node, DictConfig)
    return node


def _make_literal(section: Section) -> None:
    for name, value in vars(section).items():
        if isinstance(value, str) and "${" in value:
            setattr(section, name, literal(value))
        for part in value.values() if isinstance(value, dict) else [value]:
            if isinstance(part, Section):
                _make_literal(part)


def plain(config: Config) -> dict[str, Any]:
    """Convert `config` to nested dictionaries of plain values, for JSON and trackers."""
    content = OmegaConf.to_container(_node(config), resolve=True, enum_to_str=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def command_of(path: Path) -> str | None:
    """Read the command line from the first comment of a saved configuration; None where there is none."""
    first = path.read_text().partition("\n")[0] if path.is_file() else ""
    return first.removeprefix("# ") if first.startswith("# ") else None


def load(path: Path) -> Config:
    """Read the checked and frozen configuration that `save` wrote to `path`; raise InputError where it is none."""
    return build(load_unchecked(path))


def _schema_of(raw: Any, key: str, classes: Mapping[str, type[Section]], path: Path) -> DictConfig:
    """Find the schema that the saved section at `key` names, with those of the sections in its `parts`."""
    name = OmegaConf.select(raw, f"{key}.name")
    if name not in classes:
        raise InputError(f"{path}: {key}.name", name, ", ".join(classes))
    schema = OmegaConf.structured(classes[name])
    parts = OmegaConf.select(raw, f"{key}.parts")
    for part in parts or () if isinstance(parts, DictConfig) else ():
        schema.parts[part] = _schema_of(raw, f"{key}.parts.{part!s}", classes, path)
    return schema


def _renamed(raw: Any) -> Any:
    """Move what older versions saved under other keys.

    method.missing_eos_penalty is rollout.truncated now; a judge had the settings of the run's own reward model.
    """
    method = OmegaConf.select(raw, "method")
    if isinstance(method, DictConfig) and "missing_eos_penalty" in method:
        penalty = method.pop("missing_eos_penalty")
        chosen = {"truncated": "keep"} if penalty is None else {"truncated": "penalise", "truncated_score": penalty}
        OmegaConf.update(raw, "rollout", chosen, force_add=True)
    evaluation, source = OmegaConf.select(raw, "evaluation"), OmegaConf.select(raw, "reward.source")
    judged = isinstance(evaluation, DictConfig) and evaluation.get("reward_model") == TRAIN
    if judged and "judge" not in evaluation and source.get("name") == "reward_model":
        own = {field.name: source[field.name] for field in dataclasses.fields(JudgeConfig) if field.name in source}
        evaluation["judge"] = own | {"seed": source.get("seed", 0) + 1}
    return raw


def load_unchecked(path: Path) -> DictConfig:
    """Read what `save` wrote, typed but not checked across fields; raises InputError as `load` does."""
    expected = "the config.yaml of a run"
    try:
        raw = _renamed(OmegaConf.load(path))
        schema = OmegaConf.structured(Config(reward=RewardConfig()))
        for key, classes in POLYMORPHIC.items():
            OmegaConf.update(schema, key, _schema_of(raw, key, classes, path))
        merged = OmegaConf.merge(schema, raw)
    except OSError as error:
        raise InputError(str(path), error.strerror, expected) from error
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise InputError(str(path), str(error).splitlines()[0], expected) from error
    assert isinstance(merged, DictConfig)
    return merged
