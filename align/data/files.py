"""Rows of local JSON, JSON Lines and CSV files, each value as it stands in the file; no column is typed by others."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align.config.data_files import GZIP, format_of
from align.data.json_text import content_from, read_json, read_json_at
from align.errors import InputError

Row = dict[str, Any]
_HEAD = 4096  # characters that tell a list of rows from rows on lines
_GZIP_BEGINS = b"\x1f\x8b"  # no UTF-8 text does: what a file is packed by need not be guessed from its name


def read_text_file(file: Path, key: str) -> Iterator[Row]:
    """Yield the rows of a JSON, JSON Lines or CSV file, uncompressed where its content is gzip's.

    Lines are read one by one; a `.json` file that is one list is read whole.

    Args:
        key: The configuration key that is named where a file is no text.

    Raises:
        InputError: A file is broken gzip or not UTF-8, or a line is no row; it names file and line.
    """
    with open(file, "rb") as raw:
        packed = raw.read(len(_GZIP_BEGINS)) == _GZIP_BEGINS
    try:
        with gzip.open(file) if packed else open(file, "rb") as content:
            # Every kind of newline becomes one between rows, and stays what it is inside a CSV file's cells.
            newline = "" if format_of(file) == "csv" else None
            yield from _rows(io.TextIOWrapper(content, encoding="utf-8-sig", newline=newline), file, key)
    except UnicodeDecodeError as error:
        gzipped = "gzip, or " if file.name.lower().endswith(GZIP) else ""
        byte = _first_bad_byte(file, packed)
        raise InputError(key, str(file), f"{gzipped}UTF-8 text (byte {byte} is not)") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(key, str(file), f"a gzip file that is whole ({error})") from error


def _rows(text: io.TextIOWrapper, file: Path, key: str) -> Iterator[Row]:
    if format_of(file) == "csv":
        yield from _csv(text, file, key)
        return
    head = text.read(_HEAD)
    text.seek(0)
    if Path(file.name.lower().removesuffix(GZIP)).suffix == ".json" and head.lstrip().startswith("["):
        yield from _json_list(text.read(), file)
    else:
        yield from _json_lines(text, file)


def _first_bad_byte(file: Path, packed: bool) -> int:
    """Find the byte of a file, unpacked, that no UTF-8 text has there."""
    decoder, before = codecs.getincrementaldecoder("utf-8")(), 0
    with gzip.open(file) if packed else open(file, "rb") as content:
        while chunk := content.read(2**20):
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                return before - waiting + error.start
            before += len(chunk)
    return before  # the last character breaks off


def _json_lines(lines: Iterable[str], file: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        given = line.rstrip("\n")[:60]
        try:
            row = read_json(line)
        except json.JSONDecodeError as error:
            row, given = None, f"{given} ({error.msg})"
        if not isinstance(row, dict):
            raise InputError(f"{file}, line {number}", given, "one JSON object per line, each key once")
        yield row


def _json_list(text: str, file: Path) -> Iterator[Row]:
    """Yield the objects of one list, each as it is decoded."""
    number, separator = 0, "["
    try:
        at = _expected(text, content_from(text, 0), separator)
        while text[at : at + 1] != "]" or separator == ",":
            row, at = read_json_at(text, at)
            number += 1
            if not isinstance(row, dict):
                raise InputError(f"{file}, row {number}", json.dumps(row)[:60], "a JSON object")
            yield row
            at = content_from(text, at)
            if text[at : at + 1] == "]":
                break
            separator = ","
            at = _expected(text, at, separator)
        end = content_from(text, at + 1)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        place = f"row {number + 1}" if error.pos == at else f"line {error.lineno}"
        raise InputError(f"{file}, {place}", error.msg, "well-formed JSON, each key of an object once") from error


def _expected(text: str, at: int, separator: str) -> int:
    """Return the place behind a separator and white space."""
    if text[at : at + 1] != separator:
        raise json.JSONDecodeError(f"Expecting {separator!r} delimiter", text, at)
    return content_from(text, at + 1)


def _csv(lines: Iterable[str], file: Path, key: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(lines, strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise InputError(key, str(file), f"a csv file whose columns have different names, not {', '.join(names)}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                what = f"line {reader.line_num} has {len(cells)} cells for {len(names)} columns{_separated(names)}"
                raise InputError(key, str(file), f"a well-formed csv file ({what})")
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        what = f"line {reader.line_num}: {error}"
        raise InputError(key, str(file), f"a well-formed csv file ({what})") from error


def _separated(names: list[str]) -> str:
    """Say what seems to part the columns of a file whose header has no comma."""
    other = next((name for mark, name in ((";", "semicolons"), ("\t", "tabs")) if mark in "".join(names)), None)
    return f"; commas part columns, not {other}" if len(names) < 2 and other else ""
