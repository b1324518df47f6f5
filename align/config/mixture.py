"""Define one data set of a mixture (`data.mixture`). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from align.config.base import MISSING, Section
from align.config.shapes import Shape

if TYPE_CHECKING:
    from align.config.data import DataConfig

TEXTS = ("system", "prompt", "chosen", "rejected", "completion")  # read from a column, or written by a template


@dataclass
class MixtureSource(Section):
    """One data set of a mixture; what is null is as in `data`."""

    path_fields = ("path",)
    path: str = MISSING
    # Of its rows among all that are taken, relative to the others'; null for all = all rows.
    weight: float | None = None
    repeat: int = 1  # times that a training pair may be taken, where the weight asks for more than there are
    revision: str | None = None
    subset: str | None = None
    folder: str | None = None
    train_split: str | None = None
    shape: Shape | None = None
    prompt_column: str | None = None  # a column or a template here takes the place of either in `data`
    chosen_column: str | None = None
    rejected_column: str | None = None
    completion_column: str | None = None
    messages_column: str | None = None
    responses_column: str | None = None
    system_column: str | None = None
    prompt: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    completion: str | None = None
    system: str | None = None

    def over(self, data: DataConfig) -> DataConfig:
        """Return `data` with what this source has of its own."""
        own = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("weight", "repeat")
        }
        own = {name: value for name, value in own.items() if value is not None}
        for name in TEXTS:
            if name in own or f"{name}_column" in own:
                own = {name: None, f"{name}_column": getattr(type(data), f"{name}_column")} | own
        return replace(data, mixture={}, **own)
