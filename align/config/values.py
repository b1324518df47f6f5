"""Values that may be `auto` until a run settles them (align/config/automatic.py). Imports no torch."""

from typing import Any

AUTO = "auto"  # a number that follows from the model (align/config/automatic.py)


# A number or AUTO, held to it by `checks.automatic`: OmegaConf cannot merge a Union into a section that was missing.
Rate = Any  # a learning rate
Length = Any  # tokens


def settled_rate(value: Rate) -> float:
    """Return a rate that is no longer `auto`; TypeError where it still is."""
    if isinstance(value, str):
        raise TypeError(f"{value!r} was not settled before the configuration was used")
    return float(value)


def settled_length(value: Length) -> int:
    """Return a length that is no longer `auto`; TypeError where it still is."""
    if isinstance(value, str):
        raise TypeError(f"{value!r} was not settled before the configuration was used")
    return value
