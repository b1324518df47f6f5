"""Files that a killed run never leaves half-written: replaced as a whole, or appended one whole line at a time."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from align.errors import InputError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` under a temporary name in the same folder and rename it: readers see the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def content_hash(file: Path) -> str:
    """Compute the SHA-256 of a file's content, once in a process as long as size and time of change stay."""
    found = file.stat()
    return _hash(file.resolve(), found.st_size, found.st_mtime_ns)


@cache
def _hash(file: Path, size: int, changed: int) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def dumps(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Format JSON that every parser reads: NaN and infinities become null, their names are listed under `nonfinite`."""
    bad: list[str] = []
    clean = _clean(value, "", bad)
    if bad:
        clean["nonfinite"] = bad
    return json.dumps(clean, indent=indent, ensure_ascii=False, allow_nan=False)


def _clean(value: Any, name: str, bad: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        bad.append(name)
        return None
    if isinstance(value, Mapping):
        return {str(k): _clean(v, f"{name}.{k}" if name else str(k), bad) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_clean(v, f"{name}[{i}]", bad) for i, v in enumerate(value)]
    return value


def read_object(path: Path, what: str = "as a run writes it", **parts: type) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        what: Says in the message which object is meant.
        parts: The types of entries that are read of it, where they are there.

    Raises:
        InputError: It is no JSON, no object, or an entry has another type; it names the file.
    """
    allowed = f"a JSON object, {what}"
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), str(error), allowed) from error
    if not isinstance(found, dict):
        raise InputError(str(path), f"{json.dumps(found)[:60]} ({type(found).__name__})", allowed)
    for name, kind in parts.items():
        if name in found and not isinstance(found[name], kind):
            given = f"{name}: {json.dumps(found[name])[:60]}"
            raise InputError(str(path), given, f"{allowed}, {name} a {kind.__name__}")
    return found


class LineFile:
    """A JSONL file open for appending; every record reaches the operating system as one whole line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = open(path, "ab", buffering=0)  # noqa: SIM115  (closed in close)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; raises OSError where the disk is full."""
        line = memoryview((dumps(record) + "\n").encode())
        while line:  # a raw write may be short
            line = line[self._handle.write(line) :]

    def close(self) -> None:
        self._handle.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file without a half-written last line; none of a missing file."""
    for line in _whole_lines(path):
        yield json.loads(line)


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Cut a JSONL file down to the records that `keep` accepts, in place and at once; a missing file is left alone."""
    if path.exists():
        write_atomic(path, b"".join(line for line in _whole_lines(path) if keep(json.loads(line))))


def _whole_lines(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    with open(path, "rb") as handle:
        for line in handle:
            if line.endswith(b"\n"):
                yield line
