"""General texts, whose perplexity shows what a model has forgotten: data files, Hub ids, and plain text files."""

import re
from pathlib import Path
from typing import NamedTuple

from align.config import EvaluationConfig
from align.data.sources import load_rows
from align.errors import InputError
from align.worlds import resolve

KEY = "evaluation.general_text"
PLAIN = ".txt"  # paragraphs between blank lines are a text each


class Text(NamedTuple):
    """A passage, and its kind where the data have one."""

    text: str
    kind: str | None = None


def load_texts(path: str, config: EvaluationConfig) -> list[Text]:
    """Load the texts at `path`, with the columns and the split that `config` names; blank ones are left out.

    Raises InputError as `load_rows`, and for a missing column, a cell that is not text (with its row), or no text.
    """
    place = Path(resolve(path, KEY)).expanduser()
    texts = _paragraphs(place, path) if place.suffix == PLAIN else _of_rows(path, config)
    texts = [text for text in texts if text.text.strip()]  # a blank text has no perplexity
    if not texts:
        raise InputError(KEY, path, "data with at least one text")
    return texts


def _paragraphs(place: Path, path: str) -> list[Text]:
    try:
        content = place.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(KEY, path, f"a file that can be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(KEY, path, f"UTF-8 text (byte {error.start} is not)") from error
    return [Text(paragraph.strip("\n")) for paragraph in re.split(r"\n[^\S\n]*\n", content)]


def _of_rows(path: str, config: EvaluationConfig) -> list[Text]:
    column, kinds = config.general_column, config.general_kind_column
    split, split_key = config.general_split, "evaluation.general_split"
    rows = load_rows(path, key=KEY, split=split, split_key=split_key)
    if column not in rows[0]:
        raise InputError("evaluation.general_column", column, f"a column of {path}: {', '.join(rows[0])}")
    for at, row in enumerate(rows):
        if not isinstance(row[column], str):
            raise InputError(f"{rows.place(at)}, column {column}", row[column], "text")
    return [Text(row[column], None if row.get(kinds) in (None, "") else str(row[kinds])) for row in rows]
