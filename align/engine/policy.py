"""Names that lay here before `engine/reference.py` and `engine/protocol.py`."""

from align.engine.protocol import TokenStats
from align.engine.reference import Policy

__all__ = ["Policy", "TokenStats"]
