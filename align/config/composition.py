"""Check a whole configuration, key by key and across keys. Imports no torch."""

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from align.config import checks
from align.config.data import DataConfig
from align.config.data_files import named_places
from align.config.judge import TRAIN
from align.config.schema import Config, EvaluationConfig
from align.config.shapes import Shape
from align.config.text_templates import read_template
from align.config.values import AUTO
from align.errors import InputError
from align.metrics import METRICS

_NOT_IN_PROJECTS, _PROJECT_LENGTH = r"/\#?%:", 128  # of W&B


def check_all(config: Config) -> None:
    """Raise InputError on the first value that cannot run, alone or together with others."""
    checks.positive(config, "", "max_steps", "max_policy_tokens", "threads")
    checks.not_negative(config, "", "seed")
    checks.not_negative(config.checkpoint, "checkpoint", "every_steps")
    checks.positive(config.checkpoint, "checkpoint", "keep")
    checks.not_negative(config.verdicts, "verdicts", *(bound.name for bound in fields(config.verdicts)))
    _check_model(config)
    _check_data(config)
    checks.automatic(config.rollout, "rollout", "max_new_tokens")
    checks.finite("rollout.truncated_score", config.rollout.truncated_score)
    checks.positive(config.rollout, "rollout", "batch_size", "temperature", "decode_batch_size")
    _check_evaluation(config)
    checks.one_of(config.tracking, "tracking", "name", ("none", "wandb"))
    if config.tracking.name == "wandb":
        checks.installed("tracking", "wandb", "wandb")
        _check_project(config.tracking.project)
    _check_callbacks(config)
    config.method.check(config)
    _check_reward(config)  # last, as it imports the user's functions


def _check_model(config: Config) -> None:
    checks.model_folder("model.path", config.model.path)
    checks.existing_file("model.chat_template", config.model.chat_template)
    checks.day("model.template_date", config.model.template_date)
    checks.one_of(config.adapter, "adapter", "name", ("none", "lora"))
    checks.one_of(config.quantization, "quantization", "name", ("none", "int8", "nf4"))
    checks.positive(config.adapter, "adapter", "r", "alpha")
    quantization = config.quantization.name
    if quantization != "none" and config.adapter.name == "none":
        raise InputError("adapter", "none", f"lora: {quantization} weights cannot be trained themselves")
    if quantization != "none":
        checks.installed("quantization", quantization, "bitsandbytes")
    if config.device.name == "cpu" and config.precision.name == "fp16":
        raise InputError("precision", "fp16", "auto, fp32 or bf16 with device=cpu")


def _check_data(config: Config) -> None:
    data = config.data
    for key, part in {"data": data, **{f"data.mixture.{name}": one for name, one in data.mixture.items()}}.items():
        if part.shape is Shape.mixed:
            raise InputError(f"{key}.shape", "mixed", "auto, or a shape: that of each source of a mixture is its own")
    if data.mixture:
        _check_mixture(data)
    elif data.path is None:
        raise InputError("data.path", None, "a path, or data=mixture with sources that have theirs")
    for name, source in data.sources().items():
        _check_source(source, f"data.mixture.{name}" if name else "data")
    if data.held_out_path is not None:
        named_places("data.held_out_path", data.held_out_path)
    checks.open_fraction(data, "data", "held_out_fraction")
    checks.automatic(data, "data", "max_prompt_tokens", "max_response_tokens")
    for name in ("train_where", "held_out_where", "reward_where"):
        _check_where(f"data.{name}", getattr(data, name))
    if data.world is not None:
        from align.worlds import get

        get(data.world)


_READ_TOGETHER = (
    ("prompt_column", "chosen_column", "rejected_column", "system_column"),
    ("prompt_column", "responses_column", "scores_column", "ranks_column", "system_column"),
    ("prompt_column", "completion_column", "label_column", "system_column"),
    ("messages_column", "label_column", "system_column"),
)


def _check_columns(data: DataConfig, names: tuple[str, ...], prefix: str) -> None:
    """Refuse a column without a name, and two of the columns that are read together that have one."""
    columns = {name: getattr(data, name) for name in names if getattr(data, name) is not None}
    for name, column in columns.items():
        if not column or list(columns.values()).count(column) > 1:
            raise InputError(f"{prefix}.{name}", column, "a column name of its own")


def _check_mixture(data: DataConfig) -> None:
    for key, instead in (("path", "each source has its own"), ("held_out_split", "held_out_path or held_out_fraction")):
        if getattr(data, key) is not None:
            raise InputError(f"data.{key}", getattr(data, key), f"null beside data.mixture: {instead}")
    weighted = [name for name, source in data.mixture.items() if source.weight is not None]
    for name, source in data.mixture.items():
        checks.positive(source, f"data.mixture.{name}", "weight", "repeat")
        if weighted and name not in weighted:
            raise InputError(f"data.mixture.{name}.weight", None, f"a number above 0, as {weighted[0]} has one")


def _check_source(data: DataConfig, prefix: str) -> None:
    """Check what one source of rows is read by."""
    local = named_places(f"{prefix}.path", str(data.path))
    for name in ("revision", "folder"):
        if local is not None and getattr(data, name) is not None:
            raise InputError(f"{prefix}.{name}", getattr(data, name), f"null, as {data.path} is no Hub id")
    for names in _READ_TOGETHER:
        _check_columns(data, names, prefix)
    for name, template in data.templates().items():
        read_template(f"{prefix}.{name}", template, constant=name == "system")
        column, default = getattr(data, f"{name}_column"), getattr(DataConfig, f"{name}_column")
        if column != default:
            unset = "null" if default is None else default
            key = f"{prefix}.{name}_column"
            allowed = f"null beside {key}={column}, or {key}={unset}: one says what it is"
            raise InputError(f"{prefix}.{name}", template, allowed)


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
    own = config.evaluation
    names = ("num_prompts", "num_pairs", "num_texts", "verbosity_word_limit", "batch_size", "lm_eval_limit")
    checks.positive(own, "evaluation", *names)
    checks.not_negative(own, "evaluation", "every_steps", "seed", "num_probes")
    checks.open_fraction(own, "evaluation", "confidence", "reward_model_fraction")
    _check_general_text(own)
    checks.existing_file("evaluation.prompts_file", own.prompts_file)
    checks.existing("evaluation.lm_eval_path", own.lm_eval_path, kind="a folder that exists")
    if own.lm_eval:
        checks.installed("evaluation.lm_eval", ", ".join(own.lm_eval), "lm_eval", empty="[]")
    if own.reward_model != TRAIN:
        checks.reward_model("evaluation.reward_model", own.reward_model)
    own.judge.check(own.reward_model)


def _check_general_text(own: EvaluationConfig) -> None:
    key, path = "evaluation.general_text", own.general_text
    if path == AUTO:
        return
    if path.endswith(".txt"):
        checks.existing_file(key, path)
    else:
        named_places(key, path)
    names = ("general_column", "general_kind_column")
    for name, other in (names, names[::-1]):
        if not getattr(own, name).strip() or getattr(own, name) == getattr(own, other):
            raise InputError(f"evaluation.{name}", getattr(own, name), "a column name of its own")


def _check_project(name: str) -> None:
    """Refuse a name of a project that W&B refuses, once it is asked to begin a run."""
    bad = [mark for mark in _NOT_IN_PROJECTS if mark in name]
    if bad or not name.strip() or len(name) > _PROJECT_LENGTH:
        owner, slash, own = name.partition("/")
        hint = f"; OWNER/PROJECT is tracking.entity={owner} tracking.project={own}" if slash and own else ""
        marks = " ".join(_NOT_IN_PROJECTS)
        raise InputError("tracking.project", name, f"1 to {_PROJECT_LENGTH} characters without {marks}{hint}")


def _check_callbacks(config: Config) -> None:
    if config.callbacks.tensorboard.enabled:
        checks.installed("callbacks.tensorboard", "enabled", "tensorboard")
    _check_early_stopping(config)
    _check_retention(config)
    for name, own in config.callbacks.own.items():
        target = own.get("_target_") if isinstance(own, dict) else None
        parts = target.split(".") if isinstance(target, str) else []
        if len(parts) < 2 or not all(part.isidentifier() for part in parts):
            raise InputError(f"callbacks.own.{name}._target_", target, "module.Class, of a class that can be imported")


def _check_early_stopping(config: Config) -> None:
    stopping, prefix = config.callbacks.early_stopping, "callbacks.early_stopping"
    checks.positive(stopping, prefix, "kl_above", "reward_drop", "window")
    for key, metric in (("kl_above", "kl/per_response_k1"), ("reward_drop", "reward/score_mean")):
        limit = getattr(stopping, key)
        sampled = config.method.name in METRICS[metric].methods
        if limit is not None and not sampled and not config.evaluation.every_steps:
            allowed = f"null, or evaluation.every_steps=N: {config.method.name} measures it at evaluations only"
            raise InputError(f"{prefix}.{key}", limit, allowed)


def _check_retention(config: Config) -> None:
    retention, prefix = config.callbacks.retention, "callbacks.retention"
    checks.positive(retention, prefix, "every")
    if retention.best is None:
        return
    known = METRICS.get(str(retention.best))
    if retention.best != AUTO and (known is None or known.level != "evaluation"):
        figures = [name for name, metric in METRICS.items() if metric.level == "evaluation"]
        near = get_close_matches(str(retention.best), figures, n=3, cutoff=0.3) or figures[:3]
        raise InputError(f"{prefix}.best", retention.best, f"a figure of the evaluation, such as {', '.join(near)}")
    evaluated, saved = config.evaluation.every_steps, config.checkpoint.every_steps
    if not evaluated or not saved or saved % evaluated:
        given = f"{retention.best} with evaluation.every_steps={evaluated}, checkpoint.every_steps={saved}"
        allowed = "an evaluation at every checkpoint: the first a divisor of the second"
        raise InputError(f"{prefix}.best", given, allowed)
