"""What a composition must satisfy beyond the types of its keys; every failure is one InputError. Imports no torch.

The small validators at the top serve the methods' own `check` as well: each takes a section, the dotted name that the
section has in the configuration, and the names of its fields; a field that is None is left alone.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from collections.abc import Callable, Collection
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from align.errors import InputError
from align.metrics import METRICS

if TYPE_CHECKING:
    from align.config_sections import Config

DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
WORLD_ASSET = "align://"
TRAIN = "train"  # evaluation.reward_model: trained on pairs set aside for it


def positive(section: object, prefix: str, *names: str) -> None:
    """Raise InputError unless every named field is a finite number above 0."""
    _each(section, prefix, names, lambda value: value > 0, "a number above 0")


def not_negative(section: object, prefix: str, *names: str) -> None:
    """Raise InputError unless every named field is a finite number, 0 or above."""
    _each(section, prefix, names, lambda value: value >= 0, "0 or a number above 0")


def fraction(section: object, prefix: str, *names: str) -> None:
    """Raise InputError unless every named field lies in [0, 1]."""
    _each(section, prefix, names, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def open_fraction(section: object, prefix: str, *names: str) -> None:
    """Raise InputError unless every named field lies in (0, 1)."""
    _each(section, prefix, names, lambda value: 0 < value < 1, "a number between 0 and 1, both excluded")


def finite(key: str, value: float) -> None:
    """Raise InputError where `value` is infinite or not a number."""
    if not math.isfinite(value):
        raise InputError(key, value, "a finite number")


def function_in_file(key: str, path: str) -> None:
    """Raise InputError unless `path` is FILE.py:NAME and the file, which is read but not run, defines the name."""
    file, _, name = path.rpartition(":")
    allowed = "FILE.py:NAME of a Python function"
    if not file.endswith(".py") or not name.isidentifier():
        raise InputError(key, path, allowed)
    if not Path(file).is_file():
        raise InputError(key, path, f"{allowed} (there is no such file)")
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InputError(key, path, f"a file that Python can read ({why})") from error
    defined = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    defined += [target.id for target in assigned if isinstance(target, ast.Name)]
    imported = [a.asname or a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names]
    if name not in [*defined, *imported]:
        raise InputError(key, path, f"one of the functions there: {', '.join(defined) or 'none'}")


def one_of(section: object, prefix: str, name: str, allowed: Collection[str]) -> None:
    """Raise InputError unless the named field is one of `allowed`."""
    value = getattr(section, name)
    if value not in allowed:
        raise InputError(f"{prefix}.{name}", value, ", ".join(allowed))


def _each(section: object, prefix: str, names: Collection[str], good: Callable[[Any], bool], allowed: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and not (math.isfinite(value) and good(value)):
            raise InputError(f"{prefix}.{name}" if prefix else name, value, allowed)


def existing(key: str, path: str | None, *, kind: str = "a file or folder that exists") -> Path | None:
    """The real path behind `path`, or None where it is not a local one (None itself, a Hub id).

    A path is local when it begins with `/` or `.`, ends like a data file, is an `align://` address, or exists.

    Raises:
        InputError: `path` is local and nothing is there, or it is empty.
    """
    if path is None:
        return None
    if not path.strip():
        raise InputError(key, path, kind)
    if path.startswith(WORLD_ASSET):
        return _asset(key, path)
    real = Path(path)
    if real.exists():
        return real
    if path[0] in "/." or path.endswith(DATA_SUFFIXES):
        raise InputError(key, path, kind)
    return None


def _asset(key: str, path: str) -> Path:
    from align.worlds import resolve

    try:
        return Path(resolve(path))
    except InputError as error:  # the same line, under the key that the user wrote
        raise InputError(key, path, error.allowed) from error


def existing_file(key: str, path: str | None) -> None:
    """Raise InputError unless `path` is None or a file."""
    kind = "a file that exists"
    real = existing(key, path, kind=kind)
    if path is not None and (real is None or not real.is_file()):
        raise InputError(key, path, kind)


def model_folder(key: str, path: str | None) -> None:
    """Raise InputError where `path` is local and holds neither a model, nor an adapter, nor a run."""
    kind = "a Hub id, or a folder with config.json (a model), adapter_config.json (an adapter) or model/ (a run)"
    real = existing(key, path, kind=kind)
    if real is not None and not any((real / name).exists() for name in ("config.json", "adapter_config.json", "model")):
        raise InputError(key, path, kind)


def classifier_folder(key: str, path: str | None) -> None:
    """Raise InputError where `path` is a local model that says of itself that it is no reward model."""
    real = existing(key, path)
    if real is None or not (real / "config.json").is_file():
        return
    stated = json.loads((real / "config.json").read_text())
    kinds = stated.get("architectures") or []
    if kinds and not any("SequenceClassification" in kind for kind in kinds):
        raise InputError(key, f"{path} ({', '.join(kinds)})", "a sequence classifier with one output")
    outputs = len(stated.get("id2label") or {}) or stated.get("num_labels", 1)
    if outputs != 1:
        raise InputError(key, f"{path} (num_labels={outputs})", "a sequence classifier with num_labels=1")


def refuse_added_keys(node: DictConfig, prefix: str = "") -> None:
    """Raise InputError on a key that no schema has: `+key=value` gets past Hydra's own check."""
    schema = OmegaConf.get_type(node)
    if not dataclasses.is_dataclass(schema):
        return
    known = sorted(f.name for f in dataclasses.fields(schema))
    for key in map(str, node):
        if key not in known:
            near = get_close_matches(key, known, n=1) or known
            raise InputError(f"{prefix}{key}", f"+{prefix}{key}", ", ".join(near))
        child = OmegaConf.select(node, key)
        if not isinstance(child, DictConfig):
            continue
        refuse_added_keys(child, f"{prefix}{key}.")
        if not dataclasses.is_dataclass(OmegaConf.get_type(child)):  # a mapping whose values may be sections
            for name, value in child.items():
                if isinstance(value, DictConfig):
                    refuse_added_keys(value, f"{prefix}{key}.{name!s}.")


def check_all(config: Config) -> None:
    """Raise InputError on the first value of `config` that cannot run, alone or together with the others."""
    positive(config, "", "max_steps", "max_policy_tokens", "threads")
    not_negative(config, "", "seed")
    not_negative(config.checkpoint, "checkpoint", "every_steps")
    positive(config.checkpoint, "checkpoint", "keep")
    _check_model(config)
    _check_data(config)
    _check_reward(config)
    positive(config.rollout, "rollout", "batch_size", "max_new_tokens", "temperature", "decode_batch_size")
    _check_evaluation(config)
    _check_tracking(config)
    _check_callbacks(config)
    config.method.check(config)


def _check_model(config: Config) -> None:
    model_folder("model.path", config.model.path)
    existing_file("model.chat_template", config.model.chat_template)
    one_of(config.adapter, "adapter", "name", ("none", "lora"))
    one_of(config.quantization, "quantization", "name", ("none", "int8", "nf4"))
    positive(config.adapter, "adapter", "r", "alpha")
    quantization = config.quantization.name
    if quantization != "none" and config.adapter.name == "none":
        raise InputError("adapter", "none", f"lora: {quantization} weights cannot be trained themselves")
    if quantization != "none":
        _installed("quantization", quantization, "bitsandbytes")
    if config.device.name == "cpu" and config.precision.name == "fp16":
        raise InputError("precision", "fp16", "auto, fp32 or bf16 with device=cpu")


def _check_data(config: Config) -> None:
    data = config.data
    local = existing("data.path", data.path, kind="a JSON, JSONL, CSV or Parquet file, a folder or a Hub id")
    for name in ("revision", "folder"):
        if local is not None and getattr(data, name) is not None:
            raise InputError(f"data.{name}", getattr(data, name), f"null, as {data.path} is no Hub id")
    existing("data.held_out_path", data.held_out_path)
    open_fraction(data, "data", "held_out_fraction")
    positive(data, "data", "max_prompt_tokens", "max_response_tokens")
    names = ("prompt_column", "chosen_column", "rejected_column", "system_column")
    columns = {name: getattr(data, name) for name in names if getattr(data, name) is not None}
    for name, column in columns.items():
        if not column or list(columns.values()).count(column) > 1:
            raise InputError(f"data.{name}", column, "a column name of its own")
    for name in ("train_where", "held_out_where", "reward_where"):
        _check_where(f"data.{name}", getattr(data, name))
    if data.world is not None:
        from align.worlds import get

        get(data.world)


def _check_where(key: str, where: dict[str, Any]) -> None:
    for column, values in where.items():
        given = values if isinstance(values, list) else [values]
        if not given or any(isinstance(value, (dict, list)) for value in given):
            raise InputError(f"{key}.{column}", values, "a value, or a list of values, of that column")


def _check_reward(config: Config) -> None:
    source, credit = config.reward.source, config.reward.credit
    lacking = credit.needs - source.offers
    if lacking:
        needed = ", ".join(sorted(lacking))
        raise InputError("reward/credit", credit.name, f"one that does without {needed}: {source.name} offers none")
    source.check(config, "reward.source")
    credit.check(config, "reward.credit")


def _check_evaluation(config: Config) -> None:
    names = ("num_prompts", "num_pairs", "num_texts", "verbosity_word_limit", "batch_size")
    positive(config.evaluation, "evaluation", *names)
    not_negative(config.evaluation, "evaluation", "every_steps", "seed", "num_probes")
    open_fraction(config.evaluation, "evaluation", "confidence", "reward_model_fraction")
    existing_file("evaluation.general_text", config.evaluation.general_text)
    existing_file("evaluation.prompts_file", config.evaluation.prompts_file)
    positive(config.evaluation, "evaluation", "lm_eval_limit")
    existing("evaluation.lm_eval_path", config.evaluation.lm_eval_path, kind="a folder that exists")
    if config.evaluation.lm_eval:
        _installed("evaluation.lm_eval", ", ".join(config.evaluation.lm_eval), "lm_eval", empty="[]")
    if config.evaluation.reward_model != TRAIN:
        model_folder("evaluation.reward_model", config.evaluation.reward_model)
        classifier_folder("evaluation.reward_model", config.evaluation.reward_model)


def _check_tracking(config: Config) -> None:
    one_of(config.tracking, "tracking", "name", ("none", "wandb"))
    if config.tracking.name == "wandb":
        _installed("tracking", "wandb", "wandb")


def _check_callbacks(config: Config) -> None:
    if config.callbacks.tensorboard.enabled:
        _installed("callbacks.tensorboard", "enabled", "tensorboard")
    _check_early_stopping(config)
    _check_retention(config)
    for name, own in config.callbacks.own.items():
        target = own.get("_target_") if isinstance(own, dict) else None
        if (
            not isinstance(target, str)
            or not all(part.isidentifier() for part in target.split("."))
            or "." not in target
        ):
            raise InputError(f"callbacks.own.{name}._target_", target, "module.Class, of a class that can be imported")


def _check_early_stopping(config: Config) -> None:
    stopping, prefix = config.callbacks.early_stopping, "callbacks.early_stopping"
    positive(stopping, prefix, "kl_above", "reward_drop", "window")
    for key, metric in (("kl_above", "kl/per_response_k1"), ("reward_drop", "reward/score_mean")):
        limit = getattr(stopping, key)
        sampled = config.method.name in METRICS[metric].methods
        if limit is not None and not sampled and not config.evaluation.every_steps:
            allowed = f"null, or evaluation.every_steps=N: {config.method.name} measures it at evaluations only"
            raise InputError(f"{prefix}.{key}", limit, allowed)


def _check_retention(config: Config) -> None:
    retention, prefix = config.callbacks.retention, "callbacks.retention"
    positive(retention, prefix, "every")
    if retention.best is None:
        return
    if retention.best not in METRICS or METRICS[retention.best].level != "evaluation":
        figures = [name for name, metric in METRICS.items() if metric.level == "evaluation"]
        near = get_close_matches(str(retention.best), figures, n=3, cutoff=0.3) or figures[:3]
        raise InputError(f"{prefix}.best", retention.best, f"a figure of the evaluation, such as {', '.join(near)}")
    evaluated, saved = config.evaluation.every_steps, config.checkpoint.every_steps
    if not evaluated or not saved or saved % evaluated:
        given = f"{retention.best} with evaluation.every_steps={evaluated}, checkpoint.every_steps={saved}"
        raise InputError(
            f"{prefix}.best", given, "an evaluation at every checkpoint: the first a divisor of the second"
        )


def _installed(key: str, given: str, package: str, empty: str = "none") -> None:
    """Raise InputError where an optional package is not installed."""
    if find_spec(package) is None:
        raise InputError(key, given, f"{empty}, until `pip install {package}` was run")
