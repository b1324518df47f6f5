"""Rows of local JSON, JSON Lines and CSV files, each value as it stands in the file; no column is typed by others."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from align.errors import InputError

Row = dict[str, Any]


def read_files(files: Sequence[Path], key: str) -> list[Row]:
    """Read the rows of files in their order; every row gets every column, None where its file or line has none.

    Args:
        key: The configuration key that is named where a file is no text.

    Raises:
        InputError: A file is not UTF-8, or a line is no row; it names file and line.
    """
    rows = [row for file in files for row in _rows(file, key)]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def _rows(file: Path, key: str) -> Iterable[Row]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(key, str(file), f"UTF-8 text (byte {error.start} is not)") from error
    if file.suffix == ".csv":
        return _csv(text, file, key)
    if file.suffix == ".json" and text.lstrip().startswith("["):
        return _json_list(text, file)
    return _json_lines(text, file)


def _json_lines(text: str, file: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        given = line[:60]
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            row, given = None, f"{given} ({error.msg})"
        if not isinstance(row, dict):
            raise InputError(f"{file.name}, line {number}", given, "one JSON object per line")
        yield row


def _json_list(text: str, file: Path) -> list[Row]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{file.name}, line {error.lineno}", error.msg, "well-formed JSON") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{file.name}, row {number}", json.dumps(row)[:60], "a JSON object")
    return list(rows)


def _csv(text: str, file: Path, key: str) -> Iterator[Row]:
    """Yield rows of text; a cell that holds messages as JSON becomes these."""
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
            yield {name: _messages(cell) for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        what = f"line {reader.line_num}: {error}"
        raise InputError(key, str(file), f"a well-formed csv file ({what})") from error


def _messages(cell: str) -> Any:
    """Return the messages that a cell holds as JSON; the cell's text where it holds none."""
    if not cell.lstrip().startswith("[{"):
        return cell
    try:
        found = json.loads(cell)
    except json.JSONDecodeError:
        return cell
    whole = all(isinstance(message, Mapping) and "role" in message for message in found)
    return found if whole else cell
