"""align: what preference alignment does to a language model, measured the same way for every method."""

import logging

__version__ = "0.1.0"


class _Once(logging.Filter):
    """Lets the first record of each text pass."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self._seen
        self._seen.add(text)
        return new


# PEFT imports bitsandbytes, which warns at once of a kernel that it can do without: not worth a line. That int8 rounds
# its inputs to fp16 is, but not for every layer and call.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
_casts = logging.getLogger("bitsandbytes.autograd._functions")
_casts.setLevel(logging.WARNING)
_casts.addFilter(_Once())
