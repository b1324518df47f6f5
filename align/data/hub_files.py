"""Text files of a Hub data set, as they stand in its repository: `datasets` would guess a type for each column.

Which files are which split is kept beside the cache, so that it serves without a network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import huggingface_hub

from align.config.data_files import TEXT, format_of
from align.files import write_atomic

_AT_ONCE = 8  # files
_ADDRESS = re.compile(r"hf://datasets/(?P<name>[^@]+)@(?P<commit>[^/]+)/(?P<file>.+)")
_PLAIN = ("name", "version", "data_dir", "data_files", "description", "features")  # options that change no cell


class HubSet(NamedTuple):
    """What names a data set on the Hub."""

    path: str
    subset: str | None
    folder: str | None
    revision: str | None


def text_files(wanted: HubSet) -> dict[str, list[list[str]]] | None:
    """Find the text files of a data set by split, each as repository, commit and path; None where there are others."""
    kept = _kept(wanted)
    if datasets.config.HF_HUB_OFFLINE:
        return json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None
    path, subset, folder, revision = wanted
    config = datasets.load_dataset_builder(path, subset, data_dir=folder, revision=revision).config
    given = config.data_files or {}
    files = {str(split): [_ADDRESS.fullmatch(str(file)) for file in own] for split, own in given.items()}
    if not files or not _plain(config) or not all(_is_text(file) for own in files.values() for file in own):
        return None
    found = {split: [list(file.groups()) for file in own if file is not None] for split, own in files.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, json.dumps(found))
    return found


def downloaded(files: Sequence[Sequence[str]]) -> list[Path]:
    """Return the places on this machine of files that `text_files` found, downloaded where the cache lacks them."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_downloaded, files))


def _downloaded(file: Sequence[str]) -> Path:
    name, commit, path = file
    return Path(huggingface_hub.hf_hub_download(name, path, repo_type="dataset", revision=commit))


def _kept(wanted: HubSet) -> Path:
    own = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    return Path(datasets.config.HF_DATASETS_CACHE) / "align" / f"{own}.json"


def _is_text(file: re.Match[str] | None) -> bool:
    return file is not None and format_of(file["file"]) in TEXT


def _plain(config: Any) -> bool:
    """Return whether a repository's README.md sets no option of the reader, such as a separator."""
    usual = type(config)()
    names = [field.name for field in dataclasses.fields(config) if field.name not in _PLAIN]
    return all(getattr(config, name) == getattr(usual, name) for name in names)
