"""Define the base of every section of the configuration. Imports no torch."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

MISSING: Any = "???"  # OmegaConf's mark of a key that must be given


class Section:
    """Base of every section: a mutable dataclass, as Hydra needs it, until `freeze`; constant afterwards."""

    path_fields: ClassVar[tuple[str, ...]] = ()  # names of the fields that hold a path, or a list of them

    def __setattr__(self, name: str, value: object) -> None:
        if self.frozen:
            raise dataclasses.FrozenInstanceError(f"cannot assign to {name!r}: the configuration is frozen")
        super().__setattr__(name, value)

    def freeze(self) -> None:
        """Make this section, and those inside, constant."""
        for part in self._inside():
            part.freeze()
        super().__setattr__("_frozen", True)

    @property
    def frozen(self) -> bool:
        """Whether the section is constant."""
        return bool(self.__dict__.get("_frozen"))

    def thaw(self) -> None:
        """Make this section, and those inside, mutable again."""
        super().__setattr__("_frozen", False)
        for part in self._inside():
            part.thaw()

    def _inside(self) -> Iterator["Section"]:
        for value in list(vars(self).values()):
            for part in value.values() if isinstance(value, dict) else [value]:
                if isinstance(part, Section):
                    yield part
