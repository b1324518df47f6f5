"""Rows of local JSON, JSON Lines and CSV files, each value as it stands in the file; no column is typed by others."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.config.data_files import GZIP, format_of
from align.data.json_text import failing_item, read_json
from align.errors import InputError

Row = dict[str, Any]


class PlacedRow(Row):
    """A row that knows where it stands, in whatever order and choice rows are handed on."""

    __slots__ = ("file", "number")

    def __init__(self, cells: Row, file: str, number: int) -> None:
        """Place `cells` as row `number`, from 1, of a file or of what stands for one."""
        super().__init__(cells)
        self.file, self.number = file, number

    @property
    def place(self) -> str:
        """Name the place in a message."""
        return f"{self.file}, row {self.number}"


_GZIP_BEGINS = b"\x1f\x8b"  # no UTF-8 text does: what a file is packed by need not be guessed from its name


def read_text_file(file: Path, key: str) -> list[Row]:
    """Read the rows of a JSON, JSON Lines or CSV file, uncompressed where its content is gzip's.

    Args:
        key: The configuration key that is named where a file is no text.

    Raises:
        InputError: A file is broken gzip or not UTF-8, or a line is no row; it names file and line.
    """
    text = _text(file, key)
    if format_of(file) == "csv":
        return list(_csv(text, file, key))
    if Path(file.name.lower().removesuffix(GZIP)).suffix == ".json" and text.lstrip().startswith("["):
        return _json_list(text, file)
    return list(_json_lines(text, file))


def _text(file: Path, key: str) -> str:
    content = file.read_bytes()
    if content.startswith(_GZIP_BEGINS):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(key, str(file), f"a gzip file that is whole ({error})") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        gzipped = "gzip, or " if file.name.lower().endswith(GZIP) else ""
        raise InputError(key, str(file), f"{gzipped}UTF-8 text (byte {error.start} is not)") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as files are read in text mode


def _json_lines(text: str, file: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        given = line[:60]
        try:
            row = read_json(line)
        except json.JSONDecodeError as error:
            row, given = None, f"{given} ({error.msg})"
        if not isinstance(row, dict):
            raise InputError(f"{file.name}, line {number}", given, "one JSON object per line, each key once")
        yield row


def _json_list(text: str, file: Path) -> list[Row]:
    try:
        rows = read_json(text)
    except json.JSONDecodeError as error:
        whole = error.pos == text.index("[")  # what is wrong has no place in the text
        place = f"row {failing_item(text)}" if whole else f"line {error.lineno}"
        raise InputError(f"{file.name}, {place}", error.msg, "well-formed JSON, each key of an object once") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{file.name}, row {number}", json.dumps(row)[:60], "a JSON object")
    return list(rows)


def _csv(text: str, file: Path, key: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise InputError(key, str(file), f"a csv file whose columns have different names, not {', '.join(names)}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                what = f"line {reader.line_num} has {len(cells)} cells for {len(names)} columns"
                raise InputError(key, str(file), f"a well-formed csv file ({what})")
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        what = f"line {reader.line_num}: {error}"
        raise InputError(key, str(file), f"a well-formed csv file ({what})") from error
