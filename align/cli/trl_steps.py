"""Convert the fields of TRL's configurations that count rows, updates and epochs."""

import math
from typing import Any

from align.cli.conversion import Conversion, whole
from align.cli.quoting import quoted
from align.cli.trl_hints import row_of
from align.errors import InputError

_UNKNOWN_END = "a share of an unknown number of updates: give max_steps, or --rows N, the training rows"
_OWN_TRAINER = ("trl_dpo", "trl_kto", "trl_grpo", "trl_rloo")


def number(out: Conversion, field: str, otherwise: float) -> float:
    """Read the number under `field`, `otherwise` where there is none; ValueError or TypeError where it is no number."""
    value = out.old.get(field)
    return otherwise if value is None else float(value)


def _rows_per_pass(out: Conversion) -> int:
    return whole(out, "per_device_train_batch_size") or 8


def _rows_per_update(out: Conversion) -> int:
    return _rows_per_pass(out) * (whole(out, "gradient_accumulation_steps") or 1)


def _rows_per_rollout(out: Conversion) -> int:
    passes = whole(out, "steps_per_generation") or whole(out, "gradient_accumulation_steps") or 1
    return whole(out, "generation_batch_size") or _rows_per_pass(out) * passes


def _samples(out: Conversion) -> bool:
    return row_of("temperature", out.method) is not None


def _updates_per_epoch(out: Conversion) -> int | None:
    """Count the updates of one pass over the rows as TRL's trainers do; None where their number is not given."""
    if out.rows is None:
        return None
    if not _samples(out):
        return math.ceil(out.rows / _rows_per_update(out))
    prompts = max(1, _rows_per_rollout(out) // (whole(out, "num_generations") or 8))
    updates = _rows_per_rollout(out) * (whole(out, "num_iterations") or 1) // _rows_per_update(out)
    return out.rows // prompts * updates


def _updates(out: Conversion) -> int | None:
    """Count the updates of the run; None where the file and --rows do not tell."""
    if number(out, "max_steps", -1) > 0:
        return int(number(out, "max_steps", -1))
    one = _updates_per_epoch(out)
    return None if one is None else math.ceil(number(out, "num_train_epochs", 3) * one)


def to_batch(out: Conversion, field: str, value: Any) -> None:
    """Convert the rows per forward pass, or the passes per update or per rollout."""
    if out.method == "reward_model":
        return out.set(field, "reward.source.batch_size", _rows_per_update(out), "pairs per update")
    if not _samples(out):
        return _to_pairs(out, field)
    out.keys["rollout.batch_size"] = quoted(_rows_per_rollout(out))
    if out.method in _OWN_TRAINER:
        out.keys["method.micro_batch_size"] = quoted(_rows_per_pass(out))
    note = f"responses per update of one device; rollout.batch_size={_rows_per_rollout(out)} per rollout"
    out.set(field, "method.minibatch_size", _rows_per_update(out), note)


def _to_pairs(out: Conversion, field: str) -> None:
    size, part, note = _rows_per_update(out), _rows_per_pass(out), "pairs per update of one device"
    if out.method == "trl_kto":
        if part % 2:
            return out.refuse(field, "an even number of rows: a pair is two of TRL's rows")
        size, part, note = size // 2, part // 2, f"{note}, two of TRL's rows each"
    if out.method in _OWN_TRAINER:
        out.keys["method.micro_batch_size"] = quoted(part)
    out.set(field, "method.batch_size", size, note)


def to_rollout(out: Conversion, field: str, value: Any) -> None:
    """Convert the responses per rollout, given as their number or as passes."""
    if value is None:
        return out.leave_out(field, "null")
    out.set(field, "rollout.batch_size", _rows_per_rollout(out), "responses per rollout of one device")


def to_max_steps(out: Conversion, field: str, value: Any) -> None:
    """Convert the number of updates."""
    if number(out, field, -1) <= 0:
        return out.leave_out(field, "no limit beside num_train_epochs")
    out.set(field, "max_steps", value)


def to_epochs(out: Conversion, field: str, value: Any) -> None:
    """Convert the passes over the data, to updates where the method counts updates."""
    if out.method == "reward_model":
        if float(value) != int(float(value)) or float(value) < 1:
            return out.refuse(field, "a whole number of passes")
        return out.set(field, "reward.source.epochs", int(float(value)))
    updates = _updates(out)
    if number(out, "max_steps", -1) > 0:
        out.leave_out(field, "max_steps is given")
    elif updates is None:
        why = "align counts optimizer updates, and the file does not say how many rows there are"
        out.leave_out(field, f"{why}: --rows N converts it, or set max_steps; else max_steps stays at its default")
    elif updates < 1:
        raise InputError("--rows", out.rows, "rows for one update or more")
    else:
        out.set(field, "max_steps", updates, f"{value:g} passes over {out.rows} rows")


def to_warmup(out: Conversion, field: str, value: Any) -> None:
    """Convert a warm-up of updates, or of a share of them."""
    if out.old.get("lr_scheduler_type") == "constant":
        return out.leave_out(field, "lr_scheduler_type=constant has no warm-up in transformers")
    if field == "warmup_ratio" and number(out, "warmup_steps", 0) > 0:
        return out.leave_out(field, "warmup_steps is given")
    _to_updates(out, field, "method.warmup_steps")


def _to_updates(out: Conversion, field: str, key: str) -> None:
    """Convert a number of updates, or a share (below 1, or warmup_ratio) of all of them."""
    value = number(out, field, 0)
    if value < 0 or (field == "warmup_ratio" and value > 1):
        raise InputError(field, out.old[field], "0 or more; a ratio up to 1")
    if value >= 1 and field != "warmup_ratio":
        return out.set(field, key, int(value))
    if value == 0:
        return out.set(field, key, 0)
    updates = _updates(out)
    if updates is None:
        return out.refuse(field, _UNKNOWN_END)
    out.set(field, key, math.ceil(value * updates), f"{value:g} of {updates} updates")


_EVENTS = {  # field -> (the field that says when, that which says every how many, align's key)
    **dict.fromkeys(("save_strategy", "save_steps"), ("save_strategy", "save_steps", "checkpoint.every_steps")),
    **dict.fromkeys(
        ("eval_strategy", "evaluation_strategy", "eval_steps"),
        ("eval_strategy", "eval_steps", "evaluation.every_steps"),
    ),
}


def to_event(out: Conversion, field: str, value: Any) -> None:
    """Convert when checkpoints are written, or when the run evaluates: no, steps, epoch."""
    strategy_field, steps_field, key = _EVENTS[field]
    strategy = out.old.get(strategy_field, out.old.get("evaluation_strategy"))
    strategy = ("no" if strategy_field == "eval_strategy" else "steps") if strategy is None else strategy
    if field == steps_field and strategy != "steps":
        return out.leave_out(field, f"{strategy_field} is {strategy}")
    if strategy in ("no", False):  # YAML 1.1 reads a bare no as false
        return out.set(field, key, 0)
    if strategy == "epoch":
        updates = _updates_per_epoch(out)
        if updates is None:
            return out.leave_out(field, f"align counts updates, {key} here: --rows N converts passes over the rows")
        return out.set(field, key, updates, "updates in a pass over the rows")
    if strategy != "steps":
        return out.leave_out(field, f"{key} counts updates; callbacks=[retention] keeps the best checkpoint")
    if field == steps_field:
        return out.leave_out(field, "null") if value is None else _to_updates(out, field, key)
    if out.old.get(steps_field) is not None:
        return out.report(field, f"{key}, from {steps_field}")
    steps = int(number(out, "logging_steps", 10)) if strategy_field == "eval_strategy" else 500
    out.set(field, key, steps, "TRL's default, that of logging_steps" if strategy_field == "eval_strategy" else "TRL's")
