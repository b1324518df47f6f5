"""Look fields of TRL's up in the tables: the counterpart with a method, and the words of an error message."""

from collections.abc import Sequence

from align.cli.trl_fields import COUNTERPARTS, TRAINERS, Row
from align.cli.trl_others import FIXED, WHY_LEFT_OUT


def row_of(field: str, method: str) -> Row | None:
    """Find the counterpart of `field` with `method`; None where there is none."""
    return next((row for row in COUNTERPARTS.get(field, ()) if method in row.methods), None)


def known(field: str) -> bool:
    """Say whether the tables have `field`."""
    return field in COUNTERPARTS or field in FIXED or field in WHY_LEFT_OUT


def hint(field: str, method: str | None) -> str | None:
    """Describe what to write in place of TRL's `field` with `method`, None = any; None where the tables lack it."""
    rows = COUNTERPARTS.get(field, ())
    if rows and method is None:
        return f"{' or '.join(dict.fromkeys(row.key for row in rows))}, by the method, for TRL's {field}"
    here = [row for row in rows if method in row.methods]
    if here:
        return _described(field, here[0])
    if field in FIXED:
        return f"nothing for TRL's {field}: {FIXED[field].why}"
    if field in WHY_LEFT_OUT:
        return f"nothing for TRL's {field}: {WHY_LEFT_OUT[field]}"
    others = [f"{row.key} with method={' or '.join(row.methods)}" for row in rows]
    return f"{', '.join(others)}, TRL's {field}" if others else None


def _described(field: str, row: Row) -> str:
    return f"{row.key}{f' ({row.unit})' if row.unit else ''}, TRL's {row.equals or field}"


def method_in(words: Sequence[str]) -> str | None:
    """Find the one method that the `words` of a command line choose; None where they choose none, or several."""
    named = [word.partition("=")[2] for word in words if word.partition("=")[0] == "method"]
    return named[-1] if named and named[-1] in TRAINERS else None
