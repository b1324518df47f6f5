"""Convert the fields of a configuration of TRL's trainers, or of its command line, to words of align's."""

from collections.abc import Mapping
from typing import Any

from align.cli.conversion import Conversion
from align.cli.trl_fields import DEFAULTS, LOSS_MARKS, MARKS, OLDER_NAMES, TRAINERS
from align.cli.trl_hints import known, row_of
from align.cli.trl_others import FIXED, WHY_LEFT_OUT
from align.cli.trl_values import SPECIAL

_INNER = {"revision": "model_revision", "torch_dtype": "dtype"}  # of model_init_kwargs


def flat(old: Mapping[str, Any]) -> dict[str, Any]:
    """Lift what `model_init_kwargs` holds to the fields of the same meaning; what stands outside goes first."""
    inner = old.get("model_init_kwargs")
    if not isinstance(inner, Mapping):
        return dict(old)
    lifted = {_INNER.get(str(name), str(name)): value for name, value in inner.items()}
    return {**lifted, **{key: value for key, value in old.items() if key != "model_init_kwargs"}}


def infer(old: Mapping[str, Any]) -> tuple[str | None, str]:
    """Infer the method from fields that one trainer alone has: (method, why), or (None, why not)."""
    marks = {field: MARKS[field] for field in old if field in MARKS}
    loss = old.get("loss_type")
    for name in loss if isinstance(loss, list) else [loss]:
        if isinstance(name, str) and name in LOSS_MARKS:
            marks[f"loss_type={name}"] = LOSS_MARKS[name]
    found = sorted(set(marks.values()))
    if len(found) != 1:
        named = ", ".join(f"{mark} of {TRAINERS[method]}" for mark, method in marks.items())
        return None, named or "no field that one of TRL's trainers alone has"
    return found[0], f"{', '.join(marks)}: of TRL's {TRAINERS[found[0]]} alone"


def unset(old: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Collect TRL's values of the fields that `old` leaves to TRL's defaults, where align's are others."""
    named = {*old, *(new for name, new in OLDER_NAMES.items() if name in old)}
    return {field: values[method] for field, values in DEFAULTS.items() if method in values and field not in named}


def convert_key(out: Conversion, key: str, value: Any) -> bool:
    """Convert one field of TRL's; return False where TRL's trainers have no such field."""
    if not known(key):
        return False
    row = row_of(key, out.method)
    if row is None:
        _without_counterpart(out, key, value)
    elif key in SPECIAL:
        SPECIAL[key](out, key, value)
    elif value is None:
        out.leave_out(key, "null")
    else:
        out.set(key, row.key, value, row.unit)
    return True


def _without_counterpart(out: Conversion, key: str, value: Any) -> None:
    if key in WHY_LEFT_OUT:
        return out.leave_out(key, WHY_LEFT_OUT[key])
    if key not in FIXED:
        return out.refuse(key, f"method={out.method} has no such thing")
    same, why = FIXED[key]
    if any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in same):
        out.leave_out(key, f"align does the same: {why}")
    elif key not in out.given:
        out.report(key, f"{value} in TRL; here {why}")
    else:
        out.refuse(key, f"no counterpart: {why}")
