"""Files of a folder by split, as their names or the folder's README.md say; none is left out unsaid."""

from __future__ import annotations

import glob
import re
import tempfile
from pathlib import Path

import datasets
from datasets.data_files import FILES_TO_IGNORE, DataFilesDict, EmptyDatasetError, get_data_patterns

from align.config.data_files import ALLOWED_OR_HUB, check_file, format_of, unpacking
from align.errors import InputError

_CONFIGS = re.compile(r"\A---\n(.*\n)*?configs:", re.MULTILINE)  # a README.md that says which files are which split


def files_by_split(folder: Path, subset: str | None, key: str) -> dict[str, list[Path]]:
    """Find the data files of a folder by split; all are `train` where no name speaks of splits.

    Names are read as `datasets` reads them: `test-00000-of-00002.jsonl`, `data/validation/rows.csv`.

    Raises:
        InputError: There are none, one is packed, or some name their split while others name none.
    """
    readme = folder / "README.md"
    stated = readme.is_file() and _CONFIGS.match(readme.read_text(encoding="utf-8", errors="replace")) is not None
    found = _stated(folder, subset) if subset is not None or stated else _named(folder)
    files = {split: own for split, own in found.items() if own}
    data = _data_files(folder)
    if not data:
        raise InputError(key, str(folder), f"{ALLOWED_OR_HUB} (this folder has no such file)")
    for file in (file for own in files.values() for file in own):
        check_file(key, file)
    known = {file for own in files.values() for file in own}
    left = [file for file in data if file not in known]
    if left and not stated and subset is None:
        names = f"{left[0].relative_to(folder)}{f' and {len(left) - 1} more' if len(left) > 1 else ''}"
        allowed = f"files that all name their split ({names}: none of {', '.join(files)}), or a glob of those to read"
        raise InputError(key, str(folder), allowed)
    return files


def _named(folder: Path) -> dict[str, list[Path]]:
    """Give every data file the split that its name says, by the rules of `datasets`."""
    base = glob.escape(str(folder.absolute()))
    try:
        found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    except EmptyDatasetError:
        return {}
    data = {file.absolute(): file for file in _data_files(folder)}
    splits = {str(split): [Path(file) for file in own] for split, own in found.items()}
    return {split: [data[file] for file in own if file in data] for split, own in splits.items()}


def _stated(folder: Path, subset: str | None) -> dict[str, list[Path]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        found = datasets.load_dataset_builder(str(folder), subset, cache_dir=cache).config.data_files or {}
    return {str(split): [Path(file) for file in own] for split, own in found.items()}


def _data_files(folder: Path) -> list[Path]:
    """List the files that are data by their names, packed ones too, without hidden ones and those of `datasets`."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in FILES_TO_IGNORE)
    seen = [file for file in files if not any(p[0] == "." or p[:2] == "__" for p in file.relative_to(folder).parts)]
    return [file for file in seen if format_of(file) or (unpacking(file) and format_of(file.with_suffix("")))]
